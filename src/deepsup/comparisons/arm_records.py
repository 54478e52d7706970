"""What compare.json says of one arm: made here alone, from the journals of its runs, whether all have finished or not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

from deepsup.terms import INPUT
from deepsup.training.records import ACCURACY, Run

MOST_IMAGES: Final = 100_000
GOAL: Final = 0.9  # of the main output's score: `epochs_to_90`


def known(value: Any) -> bool:
    """Whether `value` is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def arm_record(
    names: Sequence[str], runs: Sequence[Run | None], *, data: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The record of an arm: `names` are its runs, `runs` their journals (None: not begun), in the same order.

    A run that has not finished is null in every list, and counts for nothing but what is known before the first step:
    what the networks cost, and the memory of a step. Those of them whose loss was not finite are
    `diverged`. `data` are the settings of that section, for an arm of which nothing has begun. What every field means
    stands in docs/files.md.
    """
    ended = [run if run and run.end else None for run in runs]
    ends = [run.end if run else None for run in ended]
    final = [_or_none(end.score) if end else None for end in ends]
    values = [value for value in final if value is not None]
    begun = [run for run in runs if run]
    data = next((d for run in begun if isinstance(d := run.config.get("data"), Mapping)), data or {})
    return {
        "runs": list(names),
        "final": final,
        "diverged": [
            name for name, run in zip(names, runs, strict=True) if run and run.stop is not None and not run.end
        ],
        "images": images_of(begun),
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "outputs": outputs(ended),
        **_first_ranks(ended),
        "epochs_to_90": [run.epochs_to(GOAL) if run else None for run in ended],
        "epochs": [end.epochs if end else None for end in ends],
        "passes": 2 if data.get("views") == 2 or data.get("overlap") else 1,
        "seconds": [_or_none(end.seconds) if end else None for end in ends],
        "step_ms": [_or_none(end.step_ms) if end else None for end in ends],
        **_cost(begun),
    }


def images_of(runs: Iterable[Run]) -> int | None:
    """How many images the scores of these runs are shares of; None where they are no shares of images right.

    Journals of earlier versions do not say: of theirs the smallest number of which all scores are shares.
    """
    read = list(runs)
    told = [run.images for run in read if run.images]
    if not read or any(run.metric != ACCURACY for run in read):
        return None
    return min(told) if told else _resolution(s for run in read for epoch in run.epochs for s in epoch.score.values())


def _resolution(scores: Iterable[float]) -> int | None:
    """The smallest whole number that makes all scores whole; None above `MOST_IMAGES`, from where rounding hides it."""
    found = 1
    for score in filter(known, scores):
        share = Fraction(score).limit_denominator(MOST_IMAGES)
        found = math.lcm(found, share.denominator)
        if abs(share - Fraction(score)) > 1e-12 or found > MOST_IMAGES:
            return None
    return found if found > 1 else None


def outputs(runs: Sequence[Run | None]) -> dict[str, dict[str, Any]]:
    """The score of every output after the last epoch, by name and in the order of depth; null where it has none.

    `depth` is a branch's, as a share of the network, the mean over the runs; null for what lies nowhere (the ensemble). A
    branch on the input is a whole network of its own, as deep as main.
    """
    depths: dict[str, list[float]] = {"main": [1.0]}
    scores = [run.epochs[-1].score if run and run.epochs else {} for run in runs]
    for run in runs:
        for branch in ((run.plan if run else None) or {}).get("branches") or ():
            whole = branch.get("layer") == INPUT
            depths.setdefault(str(branch.get("name")), []).append(1.0 if whole else float(branch.get("depth") or 0))
    means = {name: statistics.fmean(found) for name, found in depths.items()}
    names = dict.fromkeys(name for score in scores for name in score)
    ordered = sorted(names, key=lambda name: (means.get(name, 2.0), name == "main"))  # what lies nowhere comes last
    return {
        name: {"depth": means.get(name), "final": [_or_none(s.get(name, math.nan)) for s in scores]} for name in ordered
    }


def _first_ranks(runs: Sequence[Run | None]) -> dict[str, list[float | None]]:
    """`rank_1` of the main output after the last epoch, by run, where what is scored is a search."""
    last = [run.epochs[-1].scores.get("main", {}) if run and run.epochs else {} for run in runs]
    found = [_or_none(scores.get("rank-1", math.nan)) for scores in last]
    return {"rank_1": found} if any(map(known, found)) else {}


def _cost(runs: Sequence[Run]) -> dict[str, Any]:
    """What training and inference cost; branches placed by seed may differ, so the dearest run counts."""
    costs = [run.cost for run in runs if known(run.cost.get("trunk_params"))]
    dearest = max(costs, key=lambda cost: cost.get("head_flops") or 0, default={})
    found: dict[str, Any] = {}
    for unit in ("params", "flops"):
        trunk = dearest.get(f"trunk_{unit}")
        found[f"train_{unit}"] = None if trunk is None else trunk + (dearest.get(f"head_{unit}") or 0)
        found[f"inference_{unit}"] = trunk
    memory = [run.saved_bytes for run in runs if known(run.saved_bytes)]
    peaks = [run.end.peak_bytes for run in runs if run.end and known(run.end.peak_bytes)]
    return found | {"saved_bytes": max(memory, default=None), "peak_bytes": max(peaks, default=None)}


def _or_none(value: float) -> float | None:
    """JSON has no word for what is not finite."""
    return value if known(value) else None
