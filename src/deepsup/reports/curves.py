"""Records of several runs -> the curves that figures draw: a mean over seeds, and the range between them."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepsup.reports.formats import known, listing
from deepsup.training.records import Pull, Run

THRESHOLD: Final = 1e-7
"""Mean gradient under which the CNDS paper (arXiv 1505.02496, section 3.2) attaches a branch."""

FEW: Final = 3
"""Arms up to which a figure has room for everything about each of them."""

_LONGEST = 32  # characters that the names of losses which share a curve may take


@dataclass(frozen=True, slots=True)
class Curve:
    """One value per x (a number or a layer name): mean over the runs that have it, the smallest and the largest."""

    x: tuple[Any, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, samples: Mapping[Any, Sequence[float]]) -> Curve:
        """Summarise the finite values found at each x; an x without any is left out."""
        kept = {x: [v for v in values if known(v)] for x, values in samples.items()}
        kept = {x: values for x, values in kept.items() if values}
        return cls(
            x=tuple(kept),
            mean=tuple(statistics.fmean(v) for v in kept.values()),
            low=tuple(min(v) for v in kept.values()),
            high=tuple(max(v) for v in kept.values()),
        )

    def positive(self) -> Curve:
        """Return the part that a logarithmic axis can show; a lower end of zero is drawn at the mean."""
        rows = [
            (x, mean, low if low > 0 else mean, high)
            for x, mean, low, high in zip(self.x, self.mean, self.low, self.high, strict=True)
            if mean > 0
        ]
        return Curve(*(tuple(column) for column in zip(*rows, strict=True))) if rows else Curve((), (), (), ())


def layers(runs: Iterable[Run]) -> list[str]:
    """Return the weight-bearing layers that gradients were recorded of, in model order."""
    return list(dict.fromkeys(layer for run in runs for record in run.gradients for layer in record.layers))


def gradients(runs: Iterable[Run]) -> dict[str, Curve]:
    """Return, for each layer in model order, its mean |gradient| over the first iterations."""
    samples: dict[str, dict[Any, list[float]]] = {}
    for run in runs:
        for record in run.gradients:
            for layer, value in record.layers.items():
                samples.setdefault(layer, {}).setdefault(record.step, []).append(value)
    return {layer: Curve.of(dict(sorted(steps.items()))) for layer, steps in samples.items()}


def profile(runs: Iterable[Run]) -> Curve:
    """Return the mean |gradient| of each layer over the first iterations, one value a run, by layer in model order."""
    samples: dict[str, list[float]] = {}
    for run in runs:
        layers: dict[str, list[float]] = {}
        for record in run.gradients:
            for layer, value in record.layers.items():
                layers.setdefault(layer, []).extend([value] if known(value) else [])
        for layer, values in layers.items():
            samples.setdefault(layer, []).extend([statistics.fmean(values)] if values else [])
    return Curve.of(samples)


def branch_layers(runs: Sequence[Run]) -> list[str]:
    """Return the weight-bearing layers after which a branch starts.

    A plan gives the depth of a branch as the share of weight-bearing layers that have run; a branch whose depth is not a
    whole number of them is left out rather than put in the wrong place.
    """
    found: dict[str, None] = {}
    for run in runs:
        layers = list(run.gradients[0].layers) if run.gradients else []
        for branch in (run.plan or {}).get("branches") or ():
            passed = (branch.get("depth") or 0) * len(layers)
            if 1 <= round(passed) <= len(layers) and abs(passed - round(passed)) < 0.02:
                found[layers[round(passed) - 1]] = None
    return list(found)


def scores(runs: Iterable[Run]) -> dict[str, Curve]:
    """Return the validation score (a fraction) over epochs of each head: "main" first, then the branches."""
    samples: dict[str, dict[Any, list[float]]] = {"main": {}}
    for run in runs:
        for epoch in run.epochs:
            for head, value in epoch.score.items():
                samples.setdefault(head, {}).setdefault(epoch.epoch, []).append(value)
    return {head: Curve.of(dict(sorted(by.items()))) for head, by in samples.items() if by}


def weights(runs: Iterable[Run]) -> dict[str, Curve]:
    """Return the weight of each loss over progress (0 to 1). Losses with the very same weights share one curve."""
    samples: dict[str, dict[Any, list[float]]] = {}
    for run in runs:
        for step in run.steps:
            for head, value in step.weights.items():
                samples.setdefault(head, {}).setdefault(step.progress, []).append(value)
    together: dict[Curve, list[str]] = {}
    for head, by in samples.items():
        together.setdefault(Curve.of(dict(sorted(by.items()))), []).append(head)
    return {_together_named(heads): curve for curve, heads in together.items()}


def _together_named(heads: Sequence[str]) -> str:
    text = listing(heads)
    return text if len(text) <= _LONGEST or len(heads) < 2 else listing([heads[0], f"{len(heads) - 1} more"])


def conflicts(runs: Iterable[Run]) -> dict[str, dict[str, Curve]]:
    """Return, for each branch, the curves `cosine`, `ratio` and `kept` over progress (0 to 1)."""
    samples: dict[str, dict[str, dict[Any, list[float]]]] = {}
    for run in runs:
        for record in run.conflicts:
            for branch, pull in record.branches.items():
                by = samples.setdefault(branch, {"cosine": {}, "ratio": {}, "kept": {}})
                for quantity, at in by.items():
                    at.setdefault(record.progress, []).append(getattr(pull, quantity))
    return {
        branch: {quantity: Curve.of(dict(sorted(at.items()))) for quantity, at in by.items()}
        for branch, by in samples.items()
    }


def pulls(runs: Iterable[Run], *, since: float = 0.0, until: float = 1.0) -> dict[str, Pull]:
    """Return each branch's pull over all steps of the runs between two shares of training, each step counted once.

    A branch that was never measured there (a weight of 0, a frozen trunk) is left out. The strength is a geometric mean.
    """
    found: dict[str, list[tuple[int, Pull]]] = {}
    for run in runs:
        for record in run.conflicts:
            for branch, pull in record.branches.items():
                whole = all(map(known, (pull.cosine, pull.ratio, pull.kept, pull.share))) and pull.ratio > 0
                if whole and since <= record.progress <= until:
                    found.setdefault(branch, []).append((pull.met or record.steps, pull))
    return {branch: _together(weighted) for branch, weighted in found.items()}


def met(runs: Iterable[Run], branch: str) -> tuple[int, int]:
    """Return in how many steps the pull of `branch` was measured, and in how many it was looked for.

    A record of an older journal, which does not say, counts with all of its steps if it holds values.
    """
    records = [record for run in runs for record in run.conflicts]
    whole = [
        r for r in records if branch in r.branches and known(r.branches[branch].share) and r.branches[branch].ratio > 0
    ]
    return sum(r.branches[branch].met or r.steps for r in whole), sum(r.steps for r in records)


def at_parameters(runs: Iterable[Run]) -> dict[str, list[float]]:
    """Return by branch the cosines at the shared parameters, one a step in which they were looked at."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for record in run.conflicts:
            for branch, cosines in record.parameters.items():
                found.setdefault(branch, []).extend(cosine for cosine in cosines if known(cosine))
    return found


def _together(weighted: Sequence[tuple[int, Pull]]) -> Pull:
    steps = sum(n for n, _ in weighted)
    return Pull(
        cosine=sum(n * pull.cosine for n, pull in weighted) / steps,
        ratio=math.exp(sum(n * math.log(pull.ratio) for n, pull in weighted) / steps),
        kept=sum(n * pull.kept for n, pull in weighted) / steps,
        share=sum(n * pull.share for n, pull in weighted) / steps,
    )


def first_iterations(runs: Iterable[Run]) -> int:
    """Return over how many iterations gradients were recorded (the longest of the runs)."""
    return max((len(run.gradients) for run in runs), default=0)


def same_span(arms: Mapping[str, Sequence[Run]]) -> tuple[dict[str, tuple[Run, ...]], int]:
    """Return the arms with as many first iterations of gradients each as the shortest of their runs has, and how many.

    Means that a probe wrote down without its iterations (one record, of step 0) stay, and do not count.
    """
    lengths = [len(r.gradients) for runs in arms.values() for r in runs if r.gradients and r.gradients[-1].step > 0]
    n = min(lengths, default=1)
    return {a: tuple(dataclasses.replace(r, gradients=r.gradients[:n]) for r in runs) for a, runs in arms.items()}, n
