"""How the intervals of a comparison that adds seeds shrank, look by look, as cells for terminal and page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from deepsup.reports import formats
from deepsup.reports.columns import metric_of, span
from deepsup.reports.metrics import difference
from deepsup.reports.summary import judged


class LookTable(NamedTuple):
    """A row a look: after how many seeds, and of each arm the mean difference and the interval so far."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def looks(compare: Mapping[str, Any]) -> LookTable | None:
    """Return the table; None where no look was taken.

    >>> looks({"groups": [{"name": "g", "verdicts": {"aux": {"looks": [{"seeds": 3, "mean_difference": 0.02,
    ...     "ci_low": -0.01, "ci_high": 0.05}]}}}]})
    LookTable(heads=('seeds', 'aux'), rows=(('3', '+2.0 (−1.0 to +5.0)'),))
    """
    groups = compare["groups"]
    found = {
        arm if len(groups) == 1 else f"{group['name']}/{arm}": verdict["looks"]
        for group in groups
        for arm, verdict in judged(group).items()
        if verdict.get("looks")
    }
    seeds = sorted({look["seeds"] for history in found.values() for look in history})
    if not seeds:
        return None
    metric = metric_of(compare)
    cells = {arm: {look["seeds"]: _cell(look, metric) for look in history} for arm, history in found.items()}
    rows = [(str(n), *(own.get(n, "") for own in cells.values())) for n in seeds]
    return LookTable(("seeds", *found), tuple(rows))


def _cell(look: Mapping[str, Any], metric: str) -> str:
    mean = difference(look.get("mean_difference"), metric)
    low, high = look.get("ci_low"), look.get("ci_high")
    return f"{mean} ({span(low, high, metric=metric)})" if formats.known(low) else mean
