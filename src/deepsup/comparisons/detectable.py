"""What a comparison can see with its seeds and images: before it starts which difference, afterwards how many seeds it lacks.

>>> round(detectable(3, 0.01**2, 2000, 0.1, confidence=0.95), 3)
0.04
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from deepsup.comparisons.statistics import Difference, Verdict, half_width, percent
from deepsup.specs import require
from deepsup.tasks import is_share

POWER: Final = 0.8
"""How often a difference that can be seen is seen."""
MOST_SEEDS: Final = 1000
SPREAD: Final = 0.01
"""Assumed where nothing has run: by how much the difference of a pair deviates from seed to seed."""
DISAGREEING: Final = 0.1
"""Assumed where nothing has run: on which share of images two runs disagree."""


def power(
    gap: float,
    n: int,
    spread: float,
    images: int | None,
    variance: float,
    *,
    confidence: float,
    values: int | None = None,
) -> float:
    """How often `n` seeds give a verdict where the true difference is `gap`; the other arguments as in `Difference`.

    The mean over 200 quantiles of the variance between seeds, which the interval has to estimate.
    """
    np, stats = require("numpy", purpose="a verdict"), require("scipy.stats", purpose="a verdict")
    by_image = variance / (images or values or 1) if images or values else 0.0
    found = spread * stats.chi2.ppf((np.arange(200) + 0.5) / 200, n - 1) / (n - 1)
    halves = half_width(confidence, n, found, images, variance, values=values)
    return float(stats.norm.cdf((gap - halves) / math.sqrt(spread / n + by_image + 1e-18)).mean())


def detectable(n: int, spread: float, images: int | None, variance: float, *, confidence: float) -> float | None:
    """The smallest true difference that `n` seeds see four times in five; None where even 1 is too small."""

    def lacking(gap: float) -> float:
        return power(gap, n, spread, images, variance, confidence=confidence) - POWER

    if n < 2 or lacking(1.0) < 0:
        return None
    return float(require("scipy.optimize", purpose="a verdict").brentq(lacking, 0.0, 1.0, xtol=1e-6))


def seeds_needed(difference: Difference, *, confidence: float) -> int | None:
    """How many seeds see a difference as large as this one looks four times in five; None where 1000 would not.

    The images stay the same, and with them what they add to the interval.
    """
    if difference.mean is None or difference.n < 2:
        return None
    parts = difference.spread, difference.images, difference.variance

    def enough(n: int) -> bool:
        return power(abs(difference.mean or 0.0), n, *parts, confidence=confidence, values=difference.values) >= POWER

    if not enough(MOST_SEEDS):
        return None
    few, many = 1, MOST_SEEDS
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def lacking(difference: Difference, verdict: Verdict, level: float, *, names: tuple[str, str]) -> dict[str, Any]:
    """How many seeds `needed` would show a difference that gave no evidence, and `remarks` that say so; null where it did."""
    if verdict.verdict != "no evidence" or verdict.ci_low is None or not difference.mean:
        return {"needed": None, "remarks": []}
    needed = seeds_needed(difference, confidence=level)
    seeds = f"about {needed:,} seeds" if needed else f"not even {MOST_SEEDS:,} seeds"
    on = " on these images" if difference.images or difference.values else ""
    says = f"{names[1]} minus {names[0]}: {seeds} would show a difference of this size four times in five{on}"
    return {"needed": needed, "remarks": [says]}


def stated(
    n: int, images: int | None, pilot: Sequence[Difference], *, metric: str, confidence: float
) -> dict[str, Any]:
    """What a comparison with `n` seeds can see, as numbers and as a sentence.

    By the variances of the `pilot`, differences of runs that are there, where one has two pairs or more; else by assumption.
    """
    known = [one for one in pilot if one.n > 1]
    spread = sum(one.spread for one in known) / len(known) if known else SPREAD**2
    variance = sum(one.variance for one in known) / len(known) if known else DISAGREEING
    found = detectable(n, spread, images, variance, confidence=confidence)
    on = f" and {images:,} validation images" if images else ""
    scale, unit = (100, "points ") if is_share(metric) else (1, "")
    sees = "no difference at all" if found is None else f"differences of {scale * found:.2g} {unit}of {metric} or more"
    deviation = f"the difference deviates by {scale * math.sqrt(spread):.2g} {unit}from seed to seed"
    differs = f" and varies by {math.sqrt(variance):.2g} from image to image" if images else ""
    by = (
        f"in the runs that are there {deviation}{differs}"
        if known
        else (
            f"assumed that {deviation}"
            + (f" and two runs disagree on {percent(variance)} of the images" if images else "")
        )
    )
    says = f"With {n} seeds{on} this comparison sees {sees}, four times in five: {by}."
    return {"difference": found, "seeds": n, "images": images, "pilot": bool(known), "says": says}
