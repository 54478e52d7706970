"""The score that counts has a name; here is how each is written, and what it says in a sentence."""

from __future__ import annotations

from typing import Any, Final

from deepsup.reports import formats
from deepsup.reports.formats import known
from deepsup.tasks import METRICS

COUNTS: Final = (
    "true negatives, pixels",
    "false positives, pixels",
    "false negatives, pixels",
    "true positives, pixels",
)


def digits(metric: str) -> int:
    """How many decimals a percent of this score has: accuracy one, the scores of maps two, as their articles print them."""
    return METRICS[metric].digits if metric in METRICS else 2


def percent(fraction: Any, metric: str) -> str:
    """Write such a score in percent, without the sign."""
    return formats.percent(fraction, digits=digits(metric))


def titled(metric: str) -> str:
    """Return the name as a sentence or a heading begins with it: `titled("mean IoU")` is `"Mean IoU"`."""
    return metric[:1].upper() + metric[1:]


def meaning(metric: str) -> str:
    """Return what a score says as a sentence; empty for a name that is not known here."""
    known_as = next((one for name, one in METRICS.items() if name.lower() == metric.lower()), None)
    return f"{titled(metric)} is {known_as.says}." if known_as else ""


def value(name: str, number: float) -> str:
    """Write one of the numbers of a table of all scores: shares in percent, a threshold and counts of pixels as they are."""
    if not known(number):
        return formats.percent(number)
    if "threshold" in name.lower():
        return f"{number:.3g}"
    return f"{number:,.0f}" if name in COUNTS else formats.percent(number, digits=2)
