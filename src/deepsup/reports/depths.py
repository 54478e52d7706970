"""How good is each output after training, from the first branch to the main output and all of them together?"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepsup.reports.formats import known
from deepsup.reports.records import Run

ENSEMBLE: Final = "ensemble"
_INPUT = "input"  # the layer of a branch that is a whole network of its own


@dataclass(frozen=True, slots=True)
class Output:
    """One output after the last epoch: where it lies (a share of the network; None: nowhere), and its score."""

    name: str
    depth: float | None
    mean: float
    low: float
    high: float


def outputs(runs: Sequence[Run | None]) -> dict[str, dict[str, Any]]:
    """Return what compare.json says of an arm's outputs, from its runs: `depth`, and `final`, one score a run."""
    depths: dict[str, list[float]] = {"main": [1.0]}
    scores = [run.epochs[-1].score if run and run.epochs else {} for run in runs]
    for run in runs:
        for branch in ((run.plan if run else None) or {}).get("branches") or ():
            whole = branch.get("layer") == _INPUT
            depths.setdefault(str(branch.get("name")), []).append(1.0 if whole else float(branch.get("depth") or 0))
    means = {name: statistics.fmean(places) for name, places in depths.items()}
    names = dict.fromkeys(name for score in scores for name in score)
    ordered = sorted(names, key=lambda name: (means.get(name, 2.0), name == "main"))
    return {name: {"depth": means.get(name), "final": [s.get(name) for s in scores]} for name in ordered}


def of(arm: Mapping[str, Any]) -> list[Output]:
    """Return the outputs of an arm of compare.json that have a score, from the first to the last."""
    found = []
    for name, output in (arm.get("outputs") or {}).items():
        values = [value for value in output.get("final") or () if known(value)]
        if values:
            found.append(Output(str(name), output.get("depth"), statistics.fmean(values), min(values), max(values)))
    return found


def branches(arm: Mapping[str, Any]) -> list[Output]:
    """Return those of them that are branches."""
    return [output for output in of(arm) if output.depth is not None and output.name != "main"]


def ensemble(arm: Mapping[str, Any]) -> Output | None:
    """Return the mean of all of them, where it was scored."""
    return next((output for output in of(arm) if output.name == ENSEMBLE and output.depth is None), None)
