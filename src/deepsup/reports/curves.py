"""Records of several runs -> the curves that figures draw: a mean over seeds, and the range between them."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from deepsup.reports.formats import known, listing
from deepsup.training.records import Pull, Run

THRESHOLD: Final = 1e-7
"""Mean gradient under which the CNDS paper (arXiv 1505.02496, section 3.2) attaches a branch."""

FEW: Final = 3
"""Arms up to which a figure has room for everything about each of them."""

MOST: Final = 300
"""Records of a run that a figure draws at most; of more it draws some."""

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

    def at(self, names: Sequence[Any]) -> Curve:
        """Return the same over the places that the values of x have among `names`."""
        return dataclasses.replace(self, x=tuple(map(names.index, self.x)))


def layers(runs: Iterable[Run]) -> list[str]:
    """Return the weight-bearing layers that gradients were recorded of, in model order."""
    return list(dict.fromkeys(layer for run in runs for record in run.gradients for layer in record.layers))


def stride(runs: Iterable[Run], kind: str) -> int:
    """Return of how many records of a `kind` (a field of `Run`) one is drawn: the same for all runs of an arm."""
    return math.ceil(max((len(getattr(run, kind)) for run in runs), default=1) / MOST) or 1


def _means(runs: Sequence[Run], kind: str, at: str, values: Callable[[Any], Mapping[str, float]]) -> dict[str, Curve]:
    """Return the curve of each name in the `values` of records of a `kind`, over the field `at` of the record."""
    samples: dict[str, dict[Any, list[float]]] = {}
    step = stride(runs, kind)
    for run in runs:
        records = getattr(run, kind)
        for record in (*records[:-1:step], *records[-1:]):
            for name, value in values(record).items():
                samples.setdefault(name, {}).setdefault(getattr(record, at), []).append(value)
    return {name: Curve.of(dict(sorted(by.items()))) for name, by in samples.items()}


def gradients(runs: Sequence[Run]) -> dict[str, Curve]:
    """Return, for each layer in model order, its mean |gradient| over the first iterations."""
    return _means(runs, "gradients", "step", lambda record: record.layers)


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


def scores(runs: Sequence[Run]) -> dict[str, Curve]:
    """Return the validation score (a fraction) over epochs of each head: "main" first, then the branches."""
    found = _means(runs, "epochs", "epoch", lambda record: record.score)
    return dict(sorted(found.items(), key=lambda item: item[0] != "main"))


def weights(runs: Sequence[Run]) -> dict[str, Curve]:
    """Return the weight of each loss over progress (0 to 1). Losses with the very same weights share one curve."""
    together: dict[Curve, list[str]] = {}
    for head, curve in _means(runs, "steps", "progress", lambda record: record.weights).items():
        together.setdefault(curve, []).append(head)
    return {_together_named(heads): curve for curve, heads in together.items()}


def _together_named(heads: Sequence[str]) -> str:
    text = listing(heads)
    return text if len(text) <= _LONGEST or len(heads) < 2 else listing([heads[0], f"{len(heads) - 1} more"])


def conflicts(runs: Sequence[Run], quantity: str) -> dict[str, Curve]:
    """Return, for each branch, the curve of its `cosine`, `ratio` or `kept` over progress (0 to 1)."""
    read = attrgetter(quantity)
    return _means(runs, "conflicts", "progress", lambda record: {b: read(pull) for b, pull in record.branches.items()})


def pulls(runs: Iterable[Run]) -> dict[str, list[Pull | None]]:
    """Return each branch's pull over all steps, over those of the first half of training, and those of the second.

    Each step counts once, the strength is a geometric mean, `met` says in how many steps it was measured. A branch that
    never was (a weight of 0, a frozen trunk) is left out. A record of an older journal, which does not say in how many
    steps, counts with all of its steps.
    """
    sums: dict[str, tuple[list[float], list[float]]] = {}
    for run in runs:
        for record in run.conflicts:
            for branch, pull in record.branches.items():
                if not _whole(pull):
                    continue
                half = sums.setdefault(branch, ([0.0] * 5, [0.0] * 5))[record.progress > 0.5]
                n = pull.met or record.steps
                for i, value in enumerate((1, pull.cosine, math.log(pull.ratio), pull.kept, pull.share)):
                    half[i] += n * value
    return {
        branch: [_pull(map(sum, zip(*halves, strict=True))), *map(_pull, halves)] for branch, halves in sums.items()
    }


def measured(runs: Iterable[Run]) -> bool:
    """Whether any branch's pull was."""
    return any(_whole(pull) for run in runs for record in run.conflicts for pull in record.branches.values())


def _whole(pull: Pull) -> bool:
    return pull.ratio > 0 and math.isfinite(pull.cosine + pull.ratio + pull.kept + pull.share)


def _pull(sums: Iterable[float]) -> Pull | None:
    n, *rest = sums
    if not n:
        return None
    cosine, ratio, kept, share = (value / n for value in rest)
    return Pull(cosine, math.exp(ratio), kept, share, met=round(n))


def looked_for(runs: Iterable[Run]) -> int:
    """Return in how many steps the pulls of branches were looked for."""
    return sum(record.steps for run in runs for record in run.conflicts)


def at_parameters(runs: Iterable[Run]) -> dict[str, list[float]]:
    """Return by branch the cosines at the shared parameters, one a step in which they were looked at."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for record in run.conflicts:
            for branch, cosines in record.parameters.items():
                found.setdefault(branch, []).extend(cosine for cosine in cosines if known(cosine))
    return found


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
