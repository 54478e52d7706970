"""The curve of an ablation: how the score moves with the one setting that the arms differ in."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepsup.comparisons.statistics import t_quantile
from deepsup.reports import colours, panels
from deepsup.reports.formats import known
from deepsup.reports.panels import WIDE, Sheet
from deepsup.reports.summary import baseline
from deepsup.tasks import is_share
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


def span(drawn: Sequence[Point], metric: str = ACCURACY) -> tuple[float, float]:
    """Return the ends of an axis that shows every seed whole, and of an interval as much again: two seeds have wide ones."""
    seeds = [score for point in drawn for score in point.scores]
    low, high = min(seeds), max(seeds)
    room = max(high - low, 0.002)
    ends = [end for point in drawn for end in (point.low, point.high) if known(end)]
    least, most = (0.0, 1.0) if is_share(metric) else (-math.inf, math.inf)
    return max(low - room, min([low, *ends]), least), min(high + room, max([high, *ends]), most)


def ablation(compare: Mapping[str, Any], *, metric: str = ACCURACY, width: int = WIDE) -> Sheet | None:
    """Draw the score over the setting, one panel a group: every seed a circle, the mean a line with its 95 % interval.

    The baseline is a diamond where it is one of the values, and a dotted level. None where this is no ablation, or
    fewer than two values have a score.
    """
    drawn = {str(group["name"]): (group, points(compare, group)) for group in compare["groups"]}
    drawn = {name: (group, found) for name, (group, found) in drawn.items() if len(found) > 1}
    if not drawn:
        return None
    sheet = Sheet(list(drawn), [290], width)
    for panel, (group, found) in zip(sheet.panels, drawn.values(), strict=True):
        x = [p.x if known(p.x) else i for i, p in enumerate(found)]
        name, blue = baseline(group), colours.ACCENT
        panel.plot(x, [p.mean for p in found], color=blue, linewidth=2.2, marker="o", markersize=4, label="mean")
        if any(known(p.low) for p in found):
            ends = ([getattr(p, end) if known(p.low) else p.mean for p in found] for end in ("low", "high"))
            panel.fill_between(x, *ends, color=blue, alpha=0.16, linewidth=0, label="95 % interval of the mean")
        seeds = [(at, score) for at, p in zip(x, found, strict=True) for score in p.scores]
        look = {"color": blue, "markerfacecolor": "none", "markersize": 6, "label": "one seed"}
        panel.plot(*zip(*seeds, strict=True), "o", **look)
        marked = [(at, p.mean) for at, p in zip(x, found, strict=True) if p.arm == name]
        if marked:
            panel.plot(*marked[0], "D", color=colours.BASELINE, markersize=9, zorder=2.5, label="baseline")
        mean = group["arms"].get(name, {}).get("mean")
        if known(mean):
            panels.level(panel, mean, text="" if marked else f"{name}, the baseline", left=True)
        if not known(found[0].x):
            panel.set_xticks(x, [str(p.x) for p in found])
    panels.shares(sheet.panels[0].yaxis, metric)
    low, high = span([p for _, found in drawn.values() for p in found], metric)
    sheet.panels[0].set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    sheet.labels(x=str(varied(compare)), y=f"{metric} after the last epoch")
    return sheet.laid_out()
