"""The score that counts has a name; here is how each is written, and what it says in a sentence."""

from __future__ import annotations

from typing import Any, Final

from deepsup.reports import formats
from deepsup.reports.formats import known
from deepsup.tasks import METRICS, is_share
from deepsup.tasks.task import named

COUNTS: Final = (
    "true negatives, pixels",
    "false positives, pixels",
    "false negatives, pixels",
    "true positives, pixels",
)


def digits(metric: str) -> int:
    """How many decimals a percent of this score has: accuracy one, the scores of maps two, as their articles print them."""
    found = named(metric)
    return found.digits if found else 2


def score(value: Any, metric: str) -> str:
    """Write such a score: a share in percent, without the sign, anything else as a number: `score(0.878, "R²")` is `"0.878"`."""
    if is_share(metric):
        return formats.percent(value, digits=digits(metric))
    return f"{value:.4g}" if known(value) else formats.NONE


def unit(metric: str) -> str:
    """Return what follows such a score: `" %"`, or nothing."""
    return " %" if is_share(metric) else ""


def spread(mean: Any, std: Any, metric: str) -> str:
    """Write a mean of scores and its standard deviation: `"96.3 ± 0.4"`."""
    text = score(mean, metric)
    return f"{text} ± {score(std, metric)}" if known(mean) and known(std) else text


def difference(value: Any, metric: str) -> str:
    """Write a difference of scores with its sign: in points, `"+1.2"`, or as a number, `"+0.012"`."""
    if is_share(metric):
        return formats.points(value, digits=digits(metric))
    return (
        f"{'+' if value > 0 else formats.MINUS if value < 0 else ''}{abs(value):.3g}" if known(value) else formats.NONE
    )


def measured_in(metric: str) -> str:
    """Return what a difference is one of: `"points of accuracy"`, `"of R²"`."""
    return f"points of {metric}" if is_share(metric) else f"of {metric}"


def titled(metric: str) -> str:
    """Return the name as a sentence or a heading begins with it: `titled("mean IoU")` is `"Mean IoU"`; mAP stays as it is."""
    return metric if metric[1:2].isupper() else metric[:1].upper() + metric[1:]


def meaning(metric: str, task: str | None = None) -> str:
    """Return what a score of a task says as a sentence; empty for a name that is not known, or means several things."""
    known_as = [one for one in METRICS.values() if one.name.lower() == metric.lower() and task in (None, one.task)]
    return f"{titled(metric)} is {known_as[0].says}." if len(known_as) == 1 else ""


def value(name: str, number: float) -> str:
    """Write one of the numbers of a table of all scores: shares in percent, a threshold and counts of pixels as they are."""
    if not known(number):
        return formats.percent(number)
    if "threshold" in name.lower():
        return f"{number:.3g}"
    if not is_share(name):
        return score(number, name)
    return f"{number:,.0f}" if name in COUNTS else formats.percent(number, digits=2)
