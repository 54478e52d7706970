"""Does it help? Pairs of runs that differ in one thing, and what can be said about the difference.

>>> verdict([0.90, 0.91, 0.92], [0.95, 0.95, 0.96]).verdict
'helps'
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from deepsup.errors import ConfigError
from deepsup.specs import require


class Verdict(NamedTuple):
    """The paired comparison of two arms; the interval is that of the mean difference, candidate minus baseline."""

    verdict: str
    mean_difference: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    confidence: float
    reason: str


def rule(
    *,
    metric: str,
    baseline: str,
    candidates: Sequence[str],
    seeds: Sequence[int],
    confidence: float,
    correction: str = "none",
    groups: int = 1,
    epochs: str = "for as many epochs",
) -> str:
    """The sentences that fix, before anything runs, how the verdicts will be reached.

    `epochs` says how long the arms train; everything else about them is the same but for what they compare.
    """
    several = len(candidates) > 1
    arms = f"each of {_listing(candidates)}" if several else candidates[0]
    number = len(candidates) * groups
    percent = _percent(level(confidence, number, correction=correction))
    return (
        f"For each group, {arms} minus {baseline} in final {metric}, paired by seed "
        f"({', '.join(map(str, seeds))}): 'helps' if the {percent} t interval of the mean difference lies above 0, "
        "'hurts' if it lies below 0, otherwise 'no evidence'. "
        f"{_chances(number, confidence, correction)}{'All' if several else 'Both'} arms start from the same weights "
        f"and see the same images in the same order {epochs}."
    )


def level(confidence: float, number: int, *, correction: str) -> float:
    """The confidence of each interval where `number` of them are looked at together.

    `none` leaves it; `bonferroni` gives 1 - (1 - confidence) / number, so that the chance that any of them misses is at
    most 1 - confidence, however they hang together.
    """
    return 1 - (1 - confidence) / number if correction == "bonferroni" else confidence


def _chances(number: int, confidence: float, correction: str) -> str:
    """What it means that there are several verdicts."""
    if number < 2:
        return ""
    if correction == "bonferroni":
        return (
            f"These are {number} comparisons; each interval has {_percent(level(confidence, number, correction=correction))} "
            f"so that all of them hold together with {_percent(confidence)} (Bonferroni). "
        )
    return (
        f"These are {number} comparisons at {_percent(confidence)} each, and so {number} chances for a false verdict: nothing "
        "is corrected for that. "
    )


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _listing(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def verdict(baseline: Sequence[float], candidate: Sequence[float], *, confidence: float = 0.95) -> Verdict:
    """Judge two lists of results, paired by position, by the t interval of their mean difference.

    `helps` if the whole interval is above 0, `hurts` if it is below, else `no evidence`; fewer than two pairs prove
    nothing. Equal differences in every pair give an interval of width 0.
    """
    if len(baseline) != len(candidate):
        raise ConfigError(
            f"a paired verdict needs as many results in both arms; found {len(baseline)} and {len(candidate)}."
        )
    differences = [c - b for b, c in zip(baseline, candidate, strict=True)]
    n = len(differences)
    if n == 0:
        return Verdict("no evidence", None, None, None, 0, confidence, "no pair of runs has finished")
    mean = statistics.fmean(differences)
    if n == 1:
        return Verdict("no evidence", mean, None, None, 1, confidence, "one pair says nothing about chance; add seeds")
    half = t_quantile((1 + confidence) / 2, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    low, high = mean - half, mean + half
    if low > 0:
        return Verdict("helps", mean, low, high, n, confidence, "the interval lies above 0")
    if high < 0:
        return Verdict("hurts", mean, low, high, n, confidence, "the interval lies below 0")
    return Verdict("no evidence", mean, low, high, n, confidence, "the interval contains 0")


def t_quantile(probability: float, freedom: int) -> float:
    """The value that Student's t with `freedom` degrees of freedom stays below with `probability`."""
    return float(require("scipy.stats", purpose="a verdict").t.ppf(probability, freedom))
