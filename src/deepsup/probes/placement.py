"""Where to put branches: the rules that read a probe, and a recommendation that says why.

Where gradients fade on their way down they are weak from some layer to the input. A weak gradient above a healthy one has
another cause: many networks start their residual branches at zero, and the signal goes past them. So the rules judge each
layer by its level: the largest mean gradient among itself and the layers that run before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from deepsup import heads, specs
from deepsup.errors import ConfigError, HeadError
from deepsup.features import Feature
from deepsup.heads.cost import aligned, millions, price

RULES = {
    "threshold": "after the deepest layer whose mean gradient is under a threshold, as in CNDS",
    "drop": "wherever the gradient has fallen to a fraction of that at the branch above",
    "evenly": "at even distances, wherever gradients are weak or strong",
}
OTHERS = 5  # tap points that were not chosen, as printed
HEADINGS = ["", "layer", "chan.", "stride", "depth", "gradient", "head", "params", "FLOPs"]
RIGHT = {2, 3, 4, 5, 7, 8}  # columns of numbers


class Weighted(NamedTuple):
    """A weight-bearing layer in front of the tap point `tap`: mean |gradient| of its weight."""

    layer: str
    tap: str
    depth: float
    gradient: float


@dataclass(frozen=True)
class Point:
    """A tap point of the trunk: a place where a branch can go."""

    layer: str
    depth: float
    stride: int | None
    feature: Feature


@dataclass(frozen=True)
class Candidate:
    """A tap point as a place for a branch, with the price of a head there."""

    layer: str
    chosen: bool
    channels: int
    stride: int | None
    depth: float
    gradient: float | None  # the weakest mean |gradient| of the weights between the tap point before and this one
    params: int | None  # None where the model's output has no axis for classes, or the head cannot read this activation
    flops: int | None  # forward, per sample
    head: str = ""  # that is priced


@dataclass(frozen=True)
class Recommendation:
    """Layers to supervise by one rule, with the reason in a sentence; `at` is ready for `plan(at=...)`.

    `rows` hold every tap point: first those chosen, then the others, each from the weakest gradient to the strongest.
    """

    model: str
    rule: str
    at: list[str]
    reason: str
    rows: tuple[Candidate, ...]

    def __str__(self) -> str:
        lines = [f"{self.model}: where to put branches, by rule '{self.rule}'", f"  {self.reason}"]
        shown = self.rows[: len(self.at) + OTHERS]
        cells = [["*" if r.chosen else "", r.layer, *figures(r)] for r in shown]
        lines += aligned([HEADINGS, *cells], right=RIGHT)
        left = len(self.rows) - len(shown)
        lines += [f"  and {left} more with stronger gradients"] if left else []
        return "\n".join([*lines, self.paste])

    @property
    def paste(self) -> str:
        """The line to paste into a call of `plan`: `at=["layer1", "layer2"]`; where nothing was chosen it says so."""
        if not self.at:
            return "nothing to paste: no layer was chosen; rule 'evenly' chooses by depth alone"
        return f"at={json.dumps(self.at, ensure_ascii=False)}"


def recommend(
    model: str,
    rule: str,
    rows: Sequence[Weighted],
    points: Sequence[Point],
    *,
    threshold: float,
    factor: float,
    count: int,
    classes: int | None,
    head: str | Mapping[str, str] = heads.AUTO,
) -> Recommendation:
    """Apply a rule and say why; `rows` and `points` come in running order. Raises `ConfigError`."""
    at = choose(rule, rows, points, threshold=threshold, factor=factor, count=count)
    reason = {"threshold": _why_threshold, "drop": _why_drop, "evenly": _why_evenly}[rule]
    weakest: dict[str, float] = {}
    for row in rows:
        weakest[row.tap] = min(row.gradient, weakest.get(row.tap, row.gradient))
    by_layer = {p.layer: head if isinstance(head, str) else head.get(p.layer, heads.AUTO) for p in points}
    for text in dict.fromkeys(by_layer.values()):
        if text != heads.AUTO:
            heads.read(text)  # raises for one that is not there
    found = [_candidate(p, p.layer in at, weakest.get(p.layer), classes, by_layer[p.layer]) for p in points]
    found.sort(key=lambda c: (not c.chosen, c.gradient is None, c.gradient))
    return Recommendation(model, rule, at, reason(rows, at, threshold=threshold, factor=factor), tuple(found))


def choose(
    rule: str, rows: Sequence[Weighted], points: Sequence[Point], *, threshold: float, factor: float, count: int
) -> list[str]:
    """The tap points that a rule picks, in running order; empty when by this rule no layer needs help."""
    check_rule(rule)
    specs.hold("recommend", specs.NOT_NEGATIVE, threshold=threshold, factor=factor)
    specs.hold("recommend", specs.INTEGER, count=count)
    if rule == "threshold":
        return [r.tap for r, level in zip(rows, _levels(rows), strict=True) if level < threshold][-1:]
    if rule == "drop":
        return _drops(rows, factor)
    return _evenly(points, count)


def check_rule(rule: str) -> None:
    """Raise `ConfigError` for a rule that is not there."""
    if rule not in RULES:
        raise ConfigError(
            f"the probe has no rule {rule!r}. Rules: {', '.join(f'{name!r} ({says})' for name, says in RULES.items())}."
        )


def _drops(rows: Sequence[Weighted], factor: float) -> list[str]:
    if not factor > 1:
        raise ConfigError(f"rule 'drop' needs a factor above 1; found {factor!r}.")
    found: list[str] = []
    levels = _levels(rows)
    reference = levels[-1] if rows else 0.0
    for row, level in zip(reversed(rows), reversed(levels), strict=True):
        if level < reference / factor and row.tap not in found:
            found.append(row.tap)
            reference = level
    return found[::-1]


def _levels(rows: Sequence[Weighted]) -> list[float]:
    """Of each layer the largest mean gradient among itself and the layers before it."""
    return list(accumulate((r.gradient for r in rows), max))


def _evenly(points: Sequence[Point], count: int) -> list[str]:
    if not 1 <= count <= len(points):
        raise ConfigError(
            f"rule 'evenly' puts 1 to {len(points)} branches here, one a tap point of the trunk; count={count!r} was asked."
        )
    chosen: list[Point] = []
    for i in range(count):
        left = [p for p in points if p not in chosen]
        chosen.append(min(left, key=lambda p, at=(i + 1) / (count + 1): abs(p.depth - at)))  # type: ignore[misc]
    return [p.layer for p in points if p in chosen]


def _why_threshold(rows: Sequence[Weighted], at: list[str], *, threshold: float, factor: float) -> str:
    if not at:
        return f"no layer needs help by this rule: {_arrives(rows)}, not under {threshold:g}{_aside(rows, threshold)}."
    last = [r for r, level in zip(rows, _levels(rows), strict=True) if level < threshold][-1]
    below = "" if last is rows[0] else ", as it is at every layer before it"
    return (
        f"the training signal fades on its way down from the output: at {last.layer} ({last.depth:.0%} of the way from the "
        f"input) the mean gradient is {last.gradient:.1e}, under {threshold:g}{below}, so the network hardly learns there, and a "
        f"branch at {at[0]} gives it a loss close by."
    )


def _why_drop(rows: Sequence[Weighted], at: list[str], *, threshold: float, factor: float) -> str:
    if not rows:
        return f"no layer needs help by this rule: {_arrives(rows)}."
    start = max(r.gradient for r in rows)
    top = f"{rows[-1].layer}, the last layer before the classifier"
    if not at:
        return (
            f"no layer needs help by this rule: {_arrives(rows)}, not below 1/{factor:g} of the strongest on the way down "
            f"from {top} ({start:.1e}){_aside(rows, start / factor)}."
        )
    begins = f"it starts with {start:.1e} at {top}"
    if rows[-1].gradient < start:
        begins = f"on the way down from {top}, its strongest is {start:.1e}"
    times = "once" if len(at) == 1 else "twice" if len(at) == 2 else f"{len(at)} times"
    places = "the place" if len(at) == 1 else "each place"
    return (
        f"the training signal fades on its way down from the output: {begins}, and {times} it falls below "
        f"1/{factor:g} of what it was, so a branch at {places} where that happens gives the layers below it a loss close by."
    )


def _why_evenly(rows: Sequence[Weighted], at: list[str], *, threshold: float, factor: float) -> str:
    places = "half way" if len(at) == 1 else "at even distances"
    return f"{places} between input and output, by depth alone: this rule does not look at the gradients."


def _arrives(rows: Sequence[Weighted]) -> str:
    if not rows:
        return "no layer in front of a tap point was measured"
    return f"the signal arrives at the first layer, {rows[0].layer}, with a mean gradient of {rows[0].gradient:.1e}"


def _aside(rows: Sequence[Weighted], limit: float) -> str:
    """What to say of a layer further up whose gradient is weaker than that of one before it."""
    row = min(rows, key=lambda r: r.gradient, default=None)
    if row is None or row.gradient >= limit:
        return ""
    return f"; the weakest, {row.gradient:.1e} at {row.layer}, is no fading, as layers before it get more"


def _candidate(point: Point, chosen: bool, gradient: float | None, classes: int | None, head: str) -> Candidate:
    feature = point.feature
    head = heads.resolve(head, feature)
    params, flops = None, None
    if classes is not None:
        with suppress(HeadError):  # some places may not suit the head; `plan` says so of the one that is taken
            cost = price(point.layer, head, feature, classes)
            params, flops = cost.params, cost.flops
    return Candidate(point.layer, chosen, feature.channels, point.stride, point.depth, gradient, params, flops, head)


def figures(row: Candidate) -> list[str]:
    """Channels, stride, depth, gradient, and head with its parameters and FLOPs, as they are printed."""
    gradient = "" if row.gradient is None else f"{row.gradient:.1e}"
    cost = ["" if n is None else millions(n) for n in (row.params, row.flops)]
    return [
        str(row.channels),
        "" if row.stride is None else str(row.stride),
        f"{row.depth:.0%}",
        gradient,
        row.head,
        *cost,
    ]
