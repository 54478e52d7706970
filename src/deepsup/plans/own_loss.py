"""The loss that a model of transformers has of its own, found by trying: its forward takes labels and gives a loss.

Names and configurations do not tell it: some decoders shift their labels and some do not, `problem_type` is read by some
classes alone, auxiliary heads and penalties come on top. So labels are drawn, and the loss of them is held against ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deepsup import losses, specs
from deepsup.errors import ConfigError, DeepsupError
from deepsup.features import Pick, picked
from deepsup.layers.dry_run import as_call
from deepsup.layers.output_axis import main_of
from deepsup.layers.snapshot import begin, untouched
from deepsup.predictions import Prediction

IGNORE = losses.IGNORE


class OwnLoss(NamedTuple):
    """The loss of ours that is the model's own, and the axis of the channels with which it is; None: it is the same with any.

    `by_type`: it is that of class indices alone, and floats (N, C) the model reads as something else.
    """

    loss: str
    axis: int | None
    by_type: bool = False


class Drawn(NamedTuple):
    """Labels drawn by chance, and the losses of ours that read such, with channels on one of these axes (None: on any)."""

    labels: Tensor
    names: tuple[str, ...]
    axes: tuple[int | None, ...]
    otherwise: bool = False  # to be tried only where those right before were refused


@dataclass
class _Tries:
    """What came of all that was tried."""

    numbers: dict[str, float] = field(default_factory=dict)
    silent: bool = False  # labels were taken, and no loss given
    refused: str = ""
    equal: tuple[OwnLoss, ...] = ()  # those that labels of one kind did not tell apart, as where all scores are 0


def own_loss(model: nn.Module, sample: Any, main: Pick | None) -> OwnLoss | None:
    """Which loss of ours is the model's own; None where it has none, or does not run. The model is left as it was.

    Raises `ConfigError` where it has another: it would be trained by a loss that nobody chose.
    """
    config = getattr(model, "config", None)
    if not hasattr(config, "model_type") or "labels" not in inspect.signature(model.forward).parameters:
        return None
    tries = _Tries()
    for shaken in (False, True):  # weights of chance, only where those that there are tell nothing
        with untouched(model, parameters=shaken), _kept(config), torch.no_grad():
            model.eval()
            begin(0)
            for p in model.parameters() if shaken else ():
                if p.is_floating_point():
                    p.add_(torch.randn_like(p), alpha=0.1)
            tries = _tried(model, sample, main)
        if len(tries.equal) < 2:
            break
    if len(tries.equal) == 1:
        return tries.equal[0]._replace(by_type=_is_by_type(model, sample, main, tries.equal[0]))
    if tries.numbers or tries.refused:
        raise ConfigError(_unlike(type(model).__name__, tries))
    return None


def _is_by_type(model: nn.Module, sample: Any, main: Pick | None, found: OwnLoss) -> bool:
    """Whether a model that reads classes takes probabilities of them, (N, C), for something else, such as several labels."""
    if losses.describe(found.loss).kinds != ("class",):
        return False
    args, kwargs = as_call(sample, batch=2)
    kwargs = {key: value for key, value in kwargs.items() if key != "labels"}
    with untouched(model), _kept(model.config), torch.no_grad():
        model.eval()
        begin(0)
        output = model(*args, **kwargs)
        scores = picked(output, main_of(type(model).__name__, output, main))
        if scores.ndim != 2 or scores.shape[1] < 2:
            return False
        shares = (scores.float() * 3).softmax(1).to(scores)
        try:
            own = model(*args, **kwargs, labels=shares).loss
        except Exception:  # it takes indices alone
            return False
        ours = losses.get(found.loss)(scores, shares)
    return isinstance(own, Tensor) and not torch.allclose(own.double(), ours.to(own.device).double(), rtol=1e-3)


def _tried(model: nn.Module, sample: Any, main: Pick | None) -> _Tries:
    """The model's losses of labels of every kind, until one is also of ours."""
    args, kwargs = as_call(sample, batch=2)
    kwargs = {key: value for key, value in kwargs.items() if key != "labels"}
    tries, refused = _Tries(), True
    try:
        output = model(*args, **kwargs)
        pick = main_of(type(model).__name__, output, main)
    except Exception:  # the dry run says why
        return tries
    images = [tuple(t.shape[2:]) for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.ndim == 4]
    for drawn in _draw(picked(output, pick), model.config, images):
        if drawn.otherwise and not refused:
            continue
        try:
            output = model(*args, **kwargs, labels=drawn.labels)
        except Exception as error:
            refused, tries.refused = True, " ".join(str(error).split()) or type(error).__name__
            continue
        refused = False
        tries.equal = _alike(output, pick, drawn, tries)
        if tries.equal:
            break
    if tries.silent and not tries.numbers:
        tries.refused = ""  # there are labels of which it gives none
    return tries


def _alike(output: Any, pick: Pick, drawn: Drawn, tries: _Tries) -> tuple[OwnLoss, ...]:
    """The losses of ours that give the same number as the model's."""
    own = getattr(output, "loss", None)
    if not isinstance(own, Tensor) or own.numel() != 1:
        tries.silent = True
        return ()
    scores, found = picked(output, pick), []
    # Untrained models say nearly the same of everything, and so do all losses of it: a wide margin would take any.
    rounding = 5e-6 if scores.dtype in (torch.float32, torch.float64) else 5e-3
    for name in drawn.names:
        for axis in drawn.axes:
            known = Prediction("class", axis or 1, scores.shape[axis or 1], scores.ndim - 2, "")
            try:
                ours = losses.get(name)(known.first(scores), known.first_target(drawn.labels))
            except DeepsupError:
                continue
            if torch.allclose(own.double(), ours.to(own.device).double(), rtol=rounding, atol=1e-7):
                found.append(OwnLoss(name, axis))
            tries.numbers |= {"its own": float(own), name: float(ours)}
    return tuple(found)


def _draw(scores: Tensor, config: Any, images: list[tuple[int, ...]]) -> Iterator[Drawn]:
    """Labels of all the kinds that such scores (N, ...) may be held against, the likeliest first."""
    generator = torch.Generator().manual_seed(0)
    shape = tuple(scores.shape)
    axes = (1,) if len(shape) == 2 else (-1, 1)
    square = len(shape) == 3 and shape[1] == shape[2]
    for axis in axes[: 1 if square else 2] if len(shape) > 2 or shape[-1] > 1 else ():
        places = shape[1:-1] if axis == -1 and len(shape) > 2 else shape[2:]
        places = images[0] if images and len(places) == len(images[0]) else places
        void, names = _of_classes(config, len(places))
        full = torch.randint(0, max(2, shape[axis]), (shape[0], *places), generator=generator)
        pad = getattr(config, "pad_token_id", None)
        if places and isinstance(pad, int) and 0 <= pad < shape[axis]:
            full.view(-1)[0] = pad  # which some classes do not count
        holes = full.clone()
        holes.view(-1)[1::5] = void
        if places:
            yield Drawn(holes.to(scores.device), names, axes if square else (axis,))
        yield Drawn(full.to(scores.device), names, axes if square else (axis,), otherwise=bool(places))
    hot = torch.randint(0, 2, shape, generator=generator).to(scores)
    yield Drawn(hot, ("binary", "mse", "l1"), (None,))
    if shape[-1] == 1:
        yield Drawn(hot.squeeze(-1), ("mse", "binary", "l1"), (None,))


def _of_classes(config: Any, places: int) -> tuple[int, tuple[str, ...]]:
    """The label that does not count, and the losses of classes that a configuration may mean."""
    void = getattr(config, "semantic_loss_ignore_index", IGNORE) if places > 1 else IGNORE
    options = {"smoothing": getattr(config, "label_smoothing", 0) or 0, "ignore_index": void}
    set_by_it = {key: value for key, value in options.items() if value not in (0, IGNORE)}
    shifts: tuple[dict[str, Any], ...] = ({}, {"shift": 1}) if places == 1 else ({},)
    plain = [specs.show_call("cross_entropy", {**set_by_it, **shift}) for shift in shifts]
    return void, tuple(plain)


def _unlike(model: str, tries: _Tries) -> str:
    seen = f"of labels drawn: {', '.join(f'{name} {value:.4g}' for name, value in tries.numbers.items())}"
    if not tries.numbers:
        seen = f"it takes no labels that were drawn for it ({tries.refused:.120})"
    if tries.equal:
        seen += "; several are alike"
    return (
        f"{model} has a loss of its own, and none of deepsup's equals it; {seen}. Say what main and branches learn by: "
        "loss='cross_entropy' (or 'cross_entropy(shift=1)', 'binary', 'mse'), or main='*' with a function of "
        "(output, target) as loss= and branch_loss=."
    )


@contextmanager
def _kept(config: Any) -> Iterator[None]:
    """Classes of transformers write into their configuration what they take labels for."""
    before = dict(vars(config))
    try:
        yield
    finally:
        vars(config).clear()
        vars(config).update(before)
