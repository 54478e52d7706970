"""Losses as pure functions of (prediction, target); each returns a scalar tensor.

A loss is named by a text with its options (`"cross_entropy"`, `"kl(temperature=3)"`), or is any callable of the same
form. Of a loss between two outputs the second argument is the other output, which the caller has detached.

>>> get("squared_hinge(form='one-vs-rest')")
squared_hinge(form='one-vs-rest')
>>> describe("kl(temperature=3)")
Kind(scores=False, teacher=True, views=1, binary=False, one_channel=False, resizes=False)

None of them reads a value back from the device, and all of ours but `cross_entropy` compute in float32 at least.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup import specs
from deepsup.errors import ClassCountError, ConfigError, HeadError
from deepsup.losses import contrastive, pixelwise
from deepsup.losses.labels import IGNORE as IGNORE
from deepsup.losses.labels import check_labels as check_labels
from deepsup.losses.labels import label_message

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(
    prediction: Tensor,
    target: Tensor,
    *,
    smoothing: float = 0.0,
    resize: str = "enlarge",
    align_corners: bool = False,
    ignore_index: int = IGNORE,
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    """Softmax cross-entropy, averaged over the batch, and over the places of a map.

    `prediction` holds raw scores (N, C, ...); `target` holds class indices (N, ...) or class probabilities (N, C, ...).
    Of the target, a share `smoothing` in [0, 1) is spread over all C classes (Szegedy et al. 2016, sec. 7). Labels
    `ignore_index` do not count; `class_weight` are C numbers, and the mean is the weighted one. Of maps the sizes may
    differ: `resize` says how they meet (module `pixels`), `align_corners` how scores are enlarged. Raises `HeadError`
    when the shapes do not fit and `ClassCountError` for an index that is not below C.
    """
    named: dict[str, Any] = {"resize": resize, "align_corners": align_corners, "ignore_index": ignore_index}
    _check_options("cross_entropy", smoothing=smoothing, class_weight=class_weight, **named)
    soft = target.is_floating_point()
    if prediction.ndim > 2 and not soft and target.ndim == prediction.ndim - 1 and len(target) == len(prediction):
        return pixelwise.cross_entropy(
            prediction, target.long(), smoothing=smoothing, class_weight=class_weight, **named
        )
    expected = tuple(prediction.shape) if soft else (prediction.shape[0], *prediction.shape[2:])
    if prediction.ndim < 2 or tuple(target.shape) != expected:
        indices = (prediction.shape[0], *prediction.shape[2:])
        if soft and (tuple(target.shape) == indices or (prediction.ndim > 2 and target.ndim == prediction.ndim - 1)):
            raise HeadError(f"the target has class indices of dtype {target.dtype}; convert them: target.long().")
        if prediction.ndim > 2 and tuple(target.shape[:2]) == (len(prediction), 1):
            raise HeadError(
                f"labels are (N, ...), and this target of shape {tuple(target.shape)} has an axis of 1 for channels; take it "
                "out: target.squeeze(1)."
            )
        kind = "probabilities" if soft else "class indices"
        raise HeadError(
            f"a prediction of shape {tuple(prediction.shape)} needs {kind} of shape {expected}; found a target of shape "
            f"{tuple(target.shape)}. Give this branch a head (or main=) whose output fits the target."
        )
    weight = None if class_weight is None else prediction.new_tensor(class_weight)
    try:
        return F.cross_entropy(prediction, target, weight, ignore_index=ignore_index, label_smoothing=smoothing)
    except IndexError:
        raise ClassCountError(label_message(prediction.shape[1], target, ignore_index)) from None


def squared_hinge(prediction: Tensor, target: Tensor, *, form: str = "multiclass") -> Tensor:
    """The squared hinge loss of DSN (Lee et al. 2015), summed over the classes, averaged over the batch.

    `prediction` holds raw scores s (N, C, ...), `target` class indices y (N, ...); -100 does not count.
    `form="multiclass"` is the paper's: sum over k != y of max(0, 1 - (s_y - s_k))^2 (its exact form from memory).
    `form="one-vs-rest"` is what was released: sum over k of max(0, 1 - d_k s_k)^2, with d_k = 1 for k = y, else -1;
    its gradient is that of the released layer, 2 C_ / num with C_ = 1. Raises as `cross_entropy` does.
    """
    _check_options("squared_hinge", form=form)
    expected = (prediction.shape[0], *prediction.shape[2:])
    if prediction.ndim < 2 or target.is_floating_point() or tuple(target.shape) != expected:
        raise HeadError(
            f"squared_hinge of a prediction of shape {tuple(prediction.shape)} needs class indices (integers) of shape "
            f"{expected}; found a target of shape {tuple(target.shape)} and dtype {target.dtype}. Mixed labels need "
            "cross_entropy; other shapes a head (or main=) that fits the target."
        )
    scores, counts = _wide(prediction), target != IGNORE
    index = torch.where(counts, target, 0).unsqueeze(1)
    try:
        of_class = torch.zeros_like(scores).scatter(1, index, 1.0)
        own = scores.gather(1, index)
    except RuntimeError:
        raise ClassCountError(label_message(prediction.shape[1], target)) from None
    if form == "multiclass":
        each = F.relu(1 - own + scores).square() * (1 - of_class)
    else:
        each = F.relu(1 - (2 * of_class - 1) * scores).square()
    return torch.where(counts, each.sum(1), 0.0).sum() / counts.sum().clamp(min=1)


def kl(prediction: Tensor, teacher: Tensor, *, temperature: float = 1.0, squared: bool = True) -> Tensor:
    """KL(teacher || prediction) of the softened class probabilities, averaged over the batch (Hinton et al. 2015).

    Both hold raw scores (N, C, ...), divided by `temperature` before the softmax; with `squared` the loss is multiplied
    by temperature^2, so that gradients keep their size (DHM, ONE, DLB; the official BYOT does not). The smoothing of the
    released DHM, x' = (x + 1e-8) / (1 + C 1e-8), guards its logarithm of a softmax and is not needed with log_softmax.
    The teacher gets a gradient unless it is detached. Raises `HeadError` when the shapes differ.
    """
    _check_options("kl", temperature=temperature, squared=squared)
    _same_shape("kl", prediction, teacher, least=2)
    student = F.log_softmax(_wide(prediction) / temperature, 1)
    truth = F.log_softmax(_wide(teacher) / temperature, 1)
    value = (truth.exp() * (truth - student)).sum(1).mean()
    return value * temperature**2 if squared else value


def hint(prediction: Tensor, teacher: Tensor) -> Tensor:
    """Squared L2 distance of two features, summed over all but the batch, averaged over the batch.

    BYOT's term ||F_i - F_C||^2 (Zhang et al. 2019), FitNets' hint (Romero et al. 2015; theirs is half of it). Both are
    (N, ...) of one shape; a head that gives the teacher's shape is the adaptation layer. Raises `HeadError` otherwise.
    """
    _same_shape("hint", prediction, teacher, least=1)
    return (_wide(prediction) - _wide(teacher)).square().sum() / prediction.shape[0]


def none(prediction: Tensor, target: Any) -> Tensor:
    """Zero: the mark of an output without a loss of its own, such as a feature that only an edge reads."""
    return prediction.new_zeros(())  # not 0 * prediction.sum(), which is NaN where a prediction is infinite


def gated(value: Tensor, norm: Tensor | float, gamma: float) -> Tensor:
    """DSN's bracket [||w||^2 + l - gamma]_+ (Lee et al. 2015, eq. 3): no gradient where it is below `gamma`."""
    return F.relu(norm + value - gamma)


def _on_pairs(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss of `contrastive` that checks its options first."""

    @functools.wraps(loss)
    def checked(prediction: Tensor, target: Any, **options: Any) -> Tensor:
        _check_options(loss.__name__, **options)
        return loss(prediction, target, **options)

    return checked


def _on_maps(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss of `pixels` that checks its options and the shapes first; labels of a batch (N,) are maps without places."""

    @functools.wraps(loss)
    def checked(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
        _check_options(loss.__name__, **options)
        target = target if target.is_floating_point() else target.long()
        pixelwise.check_shapes(loss.__name__, prediction, target)
        return loss(prediction, target, **options)

    return checked


binary, balanced, dice = _on_maps(pixelwise.binary), _on_maps(pixelwise.balanced), _on_maps(pixelwise.dice)
dice_cross_entropy = _on_maps(pixelwise.dice_cross_entropy)
supcon, simclr = _on_pairs(contrastive.supcon), _on_pairs(contrastive.simclr)

LOSSES: dict[str, Callable[..., Tensor]] = {
    f.__name__: f
    for f in (
        cross_entropy,
        squared_hinge,
        binary,
        balanced,
        dice,
        dice_cross_entropy,
        kl,
        hint,
        supcon,
        simclr,
        none,
    )
}


class Kind(NamedTuple):
    """What a loss reads: class scores against labels, another output (the teacher), how many crops of each image.

    `binary`: every score goes through a sigmoid. `one_channel`: a single channel, through a sigmoid, tells two classes
    apart. `resizes`: scores may be maps of another size than the labels'.
    """

    scores: bool = True
    teacher: bool = False
    views: int = 1
    binary: bool = False
    one_channel: bool = False
    resizes: bool = False


KINDS = {
    "cross_entropy": Kind(resizes=True),
    "squared_hinge": Kind(),
    "binary": Kind(binary=True, one_channel=True, resizes=True),
    "balanced": Kind(binary=True, one_channel=True, resizes=True),
    "dice": Kind(one_channel=True, resizes=True),
    "dice_cross_entropy": Kind(one_channel=True, resizes=True),
    "kl": Kind(scores=False, teacher=True),
    "hint": Kind(scores=False, teacher=True),
    "supcon": Kind(scores=False, views=2),
    "simclr": Kind(scores=False, views=2),
    "none": Kind(scores=False),
}


@dataclass(frozen=True, repr=False)
class Named:
    """A loss of `LOSSES` with its options bound; prints as the text that names it."""

    name: str
    options: tuple[tuple[str, Any], ...]

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return LOSSES[self.name](prediction, target, **dict(self.options))

    def __repr__(self) -> str:
        return specs.show_call(self.name, dict(self.options))


_READ: dict[str, Loss] = {}  # texts with options that were read before: reading cannot be compiled, looking up can


def get(loss: str | Loss) -> Loss:
    """The loss that a text names, options bound and checked, or the callable itself.

    A plain name gives the function. Raises `ConfigError` naming the known losses and options. Under torch.compile only
    texts that were read before can be got; making a plan reads all of them.
    """
    if callable(loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    if not isinstance(loss, str) or loss not in _READ:
        name, options = read(loss)
        _READ[loss] = Named(name, tuple(options.items()))
    return _READ[loss]


def read(text: str) -> tuple[str, dict[str, object]]:
    """`"kl(temperature=3)"` as name and options, checked; nothing is evaluated as code. Raises `ConfigError`."""
    name, options = specs.read(text, LOSSES, "loss", ConfigError)
    _check_options(name, **options)
    return name, options


def check(loss: str | Loss) -> None:
    """Raise `ConfigError` when a text names no loss, or gives it an option that cannot be."""
    get(loss)


def show(loss: str | Loss) -> str:
    """A loss as a plan prints it."""
    if isinstance(loss, (str, Named)):
        return str(loss)
    return f"custom:{getattr(loss, '__name__', type(loss).__name__)}"


def describe(loss: str | Loss) -> Kind:
    """What a loss reads. One of the user's own may say so in attributes `scores`, `teacher`, `views` and so on."""
    found = get(loss)
    name = found.name if isinstance(found, Named) else getattr(found, "__name__", "")
    if isinstance(found, Named) or LOSSES.get(name) is found:
        return KINDS[name]
    said: dict[str, Any] = {field: getattr(found, field, default) for field, default in Kind()._asdict().items()}
    return Kind(**said)


def option(loss: str | Loss, name: str, default: Any) -> Any:
    """The value that an option has in a named loss: `option("cross_entropy(ignore_index=255)", "ignore_index", -100)`."""
    found = get(loss)
    return dict(found.options).get(name, default) if isinstance(found, Named) else default


def check_target(loss: str | Loss, scores: Tensor, target: Tensor) -> None:
    """Raise `ClassCountError` when a label in `target` has no class in `scores` (N, C, ...) by this loss's count.

    One channel that goes through a sigmoid tells two classes apart.
    """
    one = scores.shape[1] == 1 and describe(loss).one_channel
    check_labels(2 if one else scores.shape[1], target, option(loss, "ignore_index", IGNORE))


def check_channels(loss: str | Loss, channels: int) -> None:
    """Raise `HeadError` where a loss cannot read scores of so many channels."""
    if show(loss).partition("(")[0] == "balanced" and channels != 1:
        raise HeadError(
            f"loss 'balanced' tells two classes apart by one score a place, and the output has {channels} channels. Give it one "
            "channel, or use binary or cross_entropy."
        )


def probabilities(scores: Tensor, loss: str | Loss = "cross_entropy") -> Tensor:
    """Of raw scores (N, C, ...) what the loss takes them for: their softmax over axis 1, or their sigmoid."""
    return scores.sigmoid() if is_sigmoid(loss, scores.shape[1]) else scores.softmax(1)


def is_sigmoid(loss: str | Loss, channels: int) -> bool:
    """Whether scores of so many channels go through a sigmoid; a single one can mean nothing else."""
    return describe(loss).binary or channels == 1


def votes(scores: Sequence[Tensor], by: Sequence[str | Loss]) -> list[Tensor]:
    """Probabilities of several outputs (N, C, ...), each by its own loss, for a mean over them.

    Where some go through a softmax and some through a sigmoid, the latter are made to sum to 1 over the classes as well.
    """
    mixed = len({is_sigmoid(loss, s.shape[1]) for s, loss in zip(scores, by, strict=True)}) > 1
    found = []
    for s, loss in zip(scores, by, strict=True):
        share = probabilities(s, loss)
        found.append(share / share.sum(1, keepdim=True) if mixed and is_sigmoid(loss, s.shape[1]) else share)
    return found


FORMS = ("multiclass", "one-vs-rest")
# Of each option: what it may be, and the test of it. bool is an int, and no number here.
_OPTIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "temperature": ("a finite number above 0", lambda v: _is_number(v) and v > 0),
    "smoothing": ("a number in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1),
    "squared": ("True or False", lambda v: isinstance(v, bool)),
    "form": (" or ".join(map(repr, FORMS)), lambda v: v in FORMS),
    "resize": (" or ".join(map(repr, pixelwise.RESIZES)), lambda v: v in pixelwise.RESIZES),
    "align_corners": ("True or False", lambda v: isinstance(v, bool)),
    "ignore_index": ("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    "class_weight": (
        "a list of numbers of at least 0, one a class, or None",
        lambda v: v is None or (isinstance(v, (list, tuple)) and all(_is_number(w) and w >= 0 for w in v)),
    ),
    "smooth": ("a number of at least 0", lambda v: _is_number(v) and v >= 0),
    "dice_weight": ("a number of at least 0", lambda v: _is_number(v) and v >= 0),
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_options(loss: str, **options: object) -> None:
    if torch.compiler.is_compiling():  # a number that changed is a symbol there, and `get` has checked it
        return
    for name, value in options.items():
        expected, fits = _OPTIONS[name]
        if not fits(value):
            raise ConfigError(f"loss {loss!r} needs {name} to be {expected}; found {value!r}.")


def _wide(x: Tensor) -> Tensor:
    """In float32 where it is narrower: sums of squares and exponentials leave half precision at once."""
    return x if x.dtype == torch.float64 else x.float()


def _same_shape(loss: str, prediction: Tensor, teacher: Tensor, *, least: int) -> None:
    if prediction.ndim < least or prediction.shape != teacher.shape:
        raise HeadError(
            f"{loss} compares two outputs of one shape; found {tuple(prediction.shape)} and {tuple(teacher.shape)}. "
            "Give the branch a head whose output has the teacher's shape, or choose another teacher."
        )
