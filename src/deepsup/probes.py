"""Where do gradients vanish? Run a few iterations on the user's own data and look at every layer.

The placement procedure of CNDS (Wang et al. 2015): supervise at the top only, run 10 to 50 iterations, and look at
the mean gradient magnitude of every layer. The model is afterwards what it was, bit for bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import losses
from .errors import ConfigError, DatasetError, LayerError, NonFiniteError
from .features import main_prediction, read_pick, show_pick
from .layers import tap_points
from .traces import Trace, as_call, trace, untouched

PAPER_THRESHOLD = 1e-7  # CNDS, section 3; on float16's floor, so gradients are averaged in float32


@dataclass(frozen=True)
class LayerGradient:
    """One weight-bearing layer: mean |gradient| of its weight in each iteration, and the tap point that follows it."""

    layer: str
    tap: str | None  # None behind the last tap point: the classifier
    depth: float
    gradients: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the iterations."""
        return math.fsum(self.gradients) / len(self.gradients)


@dataclass(frozen=True)
class Probe:
    """What `probe` measured: one row a weight-bearing layer, in the order in which they run."""

    model: str
    rows: tuple[LayerGradient, ...]
    iterations: int

    def recommend(
        self, rule: str = "threshold", *, threshold: float = PAPER_THRESHOLD, factor: float = 10.0
    ) -> list[str]:
        """The layers to supervise, ready for `plan(at=...)`; empty when no gradient vanishes by this rule.

        `"threshold"`, the paper's: one branch, after the deepest layer whose mean gradient is under `threshold`.
        `"drop"`: walking down from the top, one branch wherever the mean gradient has fallen below 1/`factor` of what
        it was at the last supervised layer (at first: the last layer that can be tapped).
        """
        rows = [r for r in self.rows if r.tap is not None]
        if rule == "threshold":
            vanished = [r.tap for r in rows if r.mean < threshold and r.tap]
            return vanished[-1:]
        if rule == "drop":
            return _drops(rows, factor)
        raise ConfigError(f"the probe has no rule {rule!r}. Rules: 'threshold' (the paper's), 'drop' (relative).")

    def to_dict(self) -> dict[str, Any]:
        """For a journal: layer -> mean gradient."""
        return {r.layer: r.mean for r in self.rows}

    def __str__(self) -> str:
        width = max(len("layer"), *(len(r.layer) for r in self.rows))
        lines = [f"{self.model}: mean |gradient| of each layer's weights, {self.iterations} iterations, top loss only"]
        lines += [f"  {'layer':<{width}}  depth  gradient  tap after"]
        for r in self.rows:
            lines.append(f"  {r.layer:<{width}}  {r.depth:>5.0%}  {r.mean:>8.1e}  {r.tap or '-'}")
        for rule in ("threshold", "drop"):
            lines.append(f"  at={self.recommend(rule)}  by rule {rule!r}")
        return "\n".join(lines)


def _drops(rows: list[LayerGradient], factor: float) -> list[str]:
    if not factor > 1:
        raise ConfigError(f"rule 'drop' needs a factor above 1; found {factor!r}.")
    found: list[str] = []
    reference = rows[-1].mean if rows else 0.0
    for row in reversed(rows):
        if row.mean < reference / factor and row.tap not in found:
            found.append(str(row.tap))
            reference = row.mean
    return found[::-1]


def probe(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    *,
    iterations: int = 30,
    loss: str | losses.Loss = "cross_entropy",
    lr: float = 0.01,
    main: str | None = None,
) -> Probe:
    """Mean |gradient| of every weight-bearing layer over `iterations` steps of plain SGD with the top loss only.

    `batches` yields (input, target) on the model's device and is run through again if it is short; `lr=0` measures
    at the present weights; `main` says where the prediction is in an output with several tensors. One backward a
    step, parameter gradients only (module backward hooks break models with in-place operations). The model, its
    gradients and the random state are restored, also after Ctrl-C.
    Raises `DatasetError` for no batches, `LayerError` for a frozen model, `NonFiniteError` for a loss that is not finite.
    """
    if iterations < 1:
        raise ConfigError(f"the probe needs at least 1 iteration; found {iterations}.")
    pick = None if main is None else read_pick(main)
    measured: list[dict[str, float]] = []  # one dict an iteration; a layer that got no gradient is not in it
    with untouched(model, parameters=True):  # loaders draw random numbers too
        stream = _cycle(batches)
        first = next(stream, None)
        if first is None:
            raise DatasetError(
                "the probe got no batch: `batches` yielded nothing. Pass an iterable of (input, target)."
            )
        seen = trace(model, first[0], main=pick)
        weights = _weights(model, seen)
        model.train()
        for i, (x, y) in enumerate(itertools.islice(itertools.chain([first], stream), iterations)):
            _step(model, x, y, i, main=show_pick(seen.main), loss=losses.get(loss), lr=lr)
            found = {n: w.grad for n, w in weights.items() if w.grad is not None}
            measured.append({n: float(g.float().abs().mean()) for n, g in found.items()})
    rows = [
        LayerGradient(n, _tap_after(seen, n), seen.layers[n].depth, tuple(step.get(n, 0.0) for step in measured))
        for n in weights
        if any(n in step for step in measured)
    ]
    return Probe(seen.model, tuple(rows), len(measured))


def weight_layers(model: nn.Module) -> dict[str, Tensor]:
    """Every layer with a trainable weight of two dimensions or more, and that weight, in order of definition."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter.ndim >= 2:
                found.setdefault(name, parameter)
    return found


def _weights(model: nn.Module, seen: Trace) -> dict[str, Tensor]:
    every = weight_layers(model)
    ran = [n for n in every if n in seen.layers and seen.layers[n].calls and seen.layers[n].leads_to_output]
    if not ran:
        frozen = (
            "every parameter is frozen" if not any(p.requires_grad for p in model.parameters()) else "none of them ran"
        )
        raise LayerError(
            f"{seen.model} has no layer whose gradient could be probed: {frozen}. "
            "Set requires_grad on the trunk, or choose at=[...] by hand."
        )
    return {n: every[n] for n in sorted(ran, key=lambda n: seen.layers[n].order)}


def _step(
    model: nn.Module, x: Any, y: Tensor, i: int, *, main: str, loss: Callable[[Tensor, Tensor], Tensor], lr: float
) -> None:
    args, kwargs = as_call(x)
    model.zero_grad(set_to_none=True)
    value = loss(main_prediction(model(*args, **kwargs), main), y)
    if not torch.isfinite(value):
        raise NonFiniteError(
            f"the loss is {value.detach().item()} at iteration {i} of the probe. Lower lr (now {lr:g}) or check the data."
        )
    value.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for p in model.parameters():
            if lr and p.grad is not None:
                p.sub_(p.grad, alpha=lr)


def _tap_after(seen: Trace, name: str) -> str | None:
    after = [p.name for p in tap_points(seen) if p.order >= seen.layers[name].order]
    return after[0] if after else None


def _cycle(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty or isinstance(batches, Iterator):
            return
