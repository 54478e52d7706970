"""How good is each output after training, from the first branch to the main output and all of them together?"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deepsup.comparisons.arm_records import known

ENSEMBLE: Final = "ensemble"


@dataclass(frozen=True, slots=True)
class Output:
    """One output after the last epoch: where it lies (a share of the network; None: nowhere), and its score."""

    name: str
    depth: float | None
    mean: float
    low: float
    high: float


def of(arm: Mapping[str, Any]) -> list[Output]:
    """Return the outputs of an arm of compare.json that have a score, from the first to the last."""
    found = []
    for name, output in (arm.get("outputs") or {}).items():
        values = [value for value in output.get("final") or () if known(value)]
        if values:
            found.append(Output(str(name), output.get("depth"), statistics.fmean(values), min(values), max(values)))
    return found


def in_order(outputs: Iterable[str], plan: Mapping[str, Any] | None) -> list[str]:
    """Return names of outputs from the first to the last: the branches of a plan by depth, main, all together."""
    places = {str(b.get("name")): float(b.get("depth") or 0) for b in (plan or {}).get("branches") or ()}
    places |= {"main": 2.0, ENSEMBLE: 3.0}
    return sorted(outputs, key=lambda output: places.get(output, 1.5))


def branches(arm: Mapping[str, Any]) -> list[Output]:
    """Return those of them that are branches."""
    return [output for output in of(arm) if output.depth is not None and output.name != "main"]


def ensemble(arm: Mapping[str, Any]) -> Output | None:
    """Return the mean of all of them, where it was scored."""
    return next((output for output in of(arm) if output.name == ENSEMBLE and output.depth is None), None)
