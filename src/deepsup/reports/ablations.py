"""The curve of an ablation: how the score moves with the one setting that the arms differ in."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepsup.comparisons.statistics import t_quantile
from deepsup.reports import colours, panels
from deepsup.reports.curves import Curve
from deepsup.reports.formats import known
from deepsup.reports.metrics import digits
from deepsup.reports.panels import Figure, plain
from deepsup.reports.summary import baseline
from deepsup.training.records import ACCURACY

CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Point:
    """One value of the setting: the scores of its seeds, their mean, and the ends of the t interval of that mean.

    `x` is a number, or a text where not all values are numbers. With one or two seeds there is no interval: the ends are nan.
    """

    arm: str
    x: float | str
    scores: tuple[float, ...]
    mean: float
    low: float
    high: float


def varied(compare: Mapping[str, Any]) -> str | None:
    """Return the name of the setting that the arms differ in; None where this is no ablation."""
    vary = compare.get("vary")
    return str(vary.get("key") or "value") if isinstance(vary, Mapping) and vary.get("values") else None


def points(compare: Mapping[str, Any], group: Mapping[str, Any]) -> list[Point]:
    """Return the points of a group that have a score: numbers in their order, texts in that of the comparison."""
    values = dict((compare.get("vary") or {}).get("values") or {})
    numbers = all(map(known, values.values()))
    found = []
    for arm, value in values.items():
        scores = tuple(float(s) for s in group["arms"].get(arm, {}).get("final") or () if known(s))
        if scores:
            x = float(value) if numbers else str(value)
            found.append(Point(str(arm), x, scores, statistics.fmean(scores), *_interval(scores)))
    return sorted(found, key=lambda point: point.x) if numbers else found


def _interval(scores: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the t interval of the mean; nan below three scores: two dots and a line say what there is."""
    n = len(scores)
    if n < 3:
        return math.nan, math.nan
    half = t_quantile((1 + CONFIDENCE) / 2, n - 1) * statistics.stdev(scores) / math.sqrt(n)
    return statistics.fmean(scores) - half, statistics.fmean(scores) + half


def span(drawn: Sequence[Point]) -> tuple[float, float]:
    """Return the ends of an axis that shows every seed whole, and of an interval as much again: two seeds have wide ones."""
    seeds = [score for point in drawn for score in point.scores]
    low, high = min(seeds), max(seeds)
    room = max(high - low, 0.002)
    ends = [end for point in drawn for end in (point.low, point.high) if known(end)]
    return max(low - room, min([low, *ends]), 0.0), min(high + room, max([high, *ends]), 1.0)


def ablation(compare: Mapping[str, Any], *, metric: str = ACCURACY) -> Figure | None:
    """Draw the score over the setting, one panel a group: every seed a dot, the mean a line with its 95 % interval.

    The baseline is a diamond where it is one of the values, and a dotted level. None where this is no ablation, or
    fewer than two values have a score.
    """
    key = varied(compare)
    drawn = {str(group["name"]): (group, points(compare, group)) for group in compare["groups"]} if key else {}
    drawn = {name: (group, found) for name, (group, found) in drawn.items() if len(found) > 1}
    if not key or not drawn:
        return None
    figure = panels.beside(list(drawn), height=400)
    for i, (group, found) in enumerate(drawn.values()):
        figure["data"] += _traces(found, reference=baseline(group), panel=i, metric=metric)
        panels.axis(figure, "x", i)["title"] = {"text": plain(key), "standoff": 8}
        if isinstance(found[0].x, str):
            order = {"type": "category", "categoryorder": "array", "categoryarray": [p.x for p in found]}
            panels.axis(figure, "x", i).update(
                order | {"tickvals": [p.x for p in found], "ticktext": [plain(str(p.x)) for p in found]}
            )
    panels.shares(figure, [end for _, found in drawn.values() for end in span(found)], fine=metric != ACCURACY)
    for i, (group, found) in enumerate(drawn.values()):
        name = baseline(group)
        mean, marked = group["arms"].get(name, {}).get("mean"), any(point.arm == name for point in found)
        if known(mean):
            panels.level(figure, mean, panel=i, text="" if marked else plain(f"{name}, the baseline"), left=True)
    panels.axis(figure, "y", 0)["title"] = {"text": plain(f"{metric} after the last epoch")}
    return panels.with_legend(figure)


def _traces(found: Sequence[Point], *, reference: str | None, panel: int, metric: str) -> list[Figure]:
    """Return the shade of the intervals, the line of the means, the seeds, and the baseline's diamond."""
    form = f".{digits(metric)}%"
    x, means = tuple(p.x for p in found), tuple(p.mean for p in found)
    ends = [(p.low, p.high) if known(p.low) else (p.mean, p.mean) for p in found]
    curve = Curve(x, means, tuple(low for low, _ in ends), tuple(high for _, high in ends))
    line = panels.line(curve, name="mean", colour=colours.ACCENT, width=2.4, panel=panel, value=form)
    line |= {"mode": "lines+markers", "marker": {"size": 7, "color": colours.ACCENT}}
    dots = {
        "type": "scatter",
        "mode": "markers",
        "name": "one seed",
        "legendgroup": "one seed",
        "x": [p.x for p in found for _ in p.scores],
        "y": [score for p in found for score in p.scores],
        "marker": {
            "size": 8,
            "color": colours.clear(colours.PAPER, 0),
            "line": {"color": colours.ACCENT, "width": 1.3},
        },
        "hovertemplate": f"%{{x}}, one seed: %{{y:{form}}}<extra></extra>",
    } | panels.on(panel)
    base = next((p for p in found if p.arm == reference), None)
    marks = []
    if base:
        look = {"mode": "markers", "marker": {"size": 13, "symbol": "diamond", "color": colours.BASELINE}}
        marks = [dots | {"name": "baseline", "legendgroup": "baseline", "x": [base.x], "y": [base.mean]} | look]
        marks[0]["hovertemplate"] = f"{plain(base.arm)}, the baseline: %{{y:{form}}}<extra></extra>"
    return [
        *(panels.band(curve, colour=colours.ACCENT, panel=panel) if any(known(p.low) for p in found) else ()),
        line,
        dots,
        *marks,
    ]
