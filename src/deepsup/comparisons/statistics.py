"""Does it help? Pairs of runs that differ in one thing, and what can be said about the difference.

>>> verdict([0.90, 0.91, 0.92], [0.95, 0.95, 0.96], images=10_000).verdict
'helps'

A difference varies from seed to seed, and with the images that it is measured on, which all seeds share. The interval is
mean ± sqrt(a² + b²) ± 1 / images, where a and b are the t intervals of either part alone: at least as sure as it says,
whichever part is the larger (Banerjee 1960, Sankhya 22), and half an answer of each arm wide for scores being counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from deepsup.errors import ConfigError
from deepsup.specs import require

WORST: Final = 0.0
"""The score of a run that diverged: scores are shares."""
_NONE: Final = 1e-18
"""A variance below it is that of rounding."""

K = TypeVar("K", bound=Hashable)


class Verdict(NamedTuple):
    """The paired comparison of two arms; the interval is that of the mean difference, candidate minus baseline.

    `p` is 1 - the highest confidence at which the interval still leaves out 0; `images` how many images each score is a
    share of, None where it is none; `remarks` name the runs that diverged or are missing.
    """

    verdict: str
    mean_difference: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    confidence: float
    reason: str
    p: float
    images: int | None
    remarks: list[str]


@dataclass(frozen=True)
class Difference:
    """What pairs of runs say: the mean of their differences, and the variances that it is made with.

    `spread` is the variance from seed to seed, `variance` that of the mean difference on one of the `images`; no `images`
    where the score is no share of images: `variance` is then that on one of so many `values`, what images add to the score,
    and without these the interval is of the seeds alone, and holds for these images.
    """

    mean: float | None
    n: int
    spread: float = 0.0
    images: int | None = None
    variance: float = 0.0
    remarks: tuple[str, ...] = ()
    values: int | None = None

    def half(self, confidence: float) -> float | None:
        """Half the width of the interval; None where nothing is known of chance."""
        by_images = 0.0 if self.values is None else self.variance
        if self.n < 2 or (self.images is None and self.spread < _NONE and by_images < _NONE):
            return None
        return float(half_width(confidence, self.n, self.spread, self.images, self.variance, values=self.values))

    @property
    def p(self) -> float:
        """1 - the highest confidence at which the interval leaves out 0, not below 1e-12; 1 where there is none."""
        ends = (0.0, 1 - 1e-12)
        beyond = [abs(self.mean or 0.0) - (math.inf if (half := self.half(end)) is None else half) for end in ends]
        if beyond[0] <= 0 or beyond[1] >= 0:
            return 1.0 if beyond[0] <= 0 else 1e-12
        root = require("scipy.optimize", purpose="a verdict").brentq
        return float(10 ** root(lambda log: abs(self.mean or 0.0) - (self.half(1 - 10**log) or 0.0), -12, 0))

    def verdict(self, confidence: float) -> Verdict:
        """`helps` if the whole interval is above 0, `hurts` if it is below, else `no evidence`."""
        half, mean = self.half(confidence), self.mean
        if mean is None or half is None:
            same = "all pairs differ by the same, which says nothing about chance; add seeds"
            why = ("no pair of runs has finished", "one pair says nothing about chance; add seeds", same)[
                min(self.n, 2)
            ]
            return self._told("no evidence", None, None, confidence, why)
        low, high = mean - half, mean + half
        if self.images is not None:  # a difference of two shares
            low, high = max(low, -1.0), min(high, 1.0)
        if low > 0:
            return self._told("helps", low, high, confidence, "the interval lies above 0")
        if high < 0:
            return self._told("hurts", low, high, confidence, "the interval lies below 0")
        return self._told("no evidence", low, high, confidence, "the interval contains 0")

    def _told(self, word: str, low: float | None, high: float | None, confidence: float, reason: str) -> Verdict:
        remarks = list(self.remarks)
        return Verdict(word, self.mean, low, high, self.n, confidence, reason, self.p, self.images, remarks)


def half_width(
    confidence: float, n: int, spread: Any, images: int | None, variance: Any, *, values: int | None = None
) -> Any:
    """Half the width of the interval of the mean of `n` differences; arrays of variances give an array of widths.

    `images` are those that scores are shares of, `values` those whose part in a score of another kind is known.
    """
    above = (1 + confidence) / 2
    seeds = t_quantile(above, n - 1) ** 2 * spread / n
    if values is not None and images is None:
        return (seeds + t_quantile(above, max(values - 1, 1)) ** 2 * variance / values) ** 0.5
    if images is None:
        return seeds**0.5
    return (seeds + t_quantile(above, max(images - 1, 1)) ** 2 * variance / images) ** 0.5 + 1 / images


def independent(baseline: Any, candidate: Any, images: int) -> Any:
    """The variance on one image of the difference of two shares of `images`, as if errors of the arms had nothing in common.

    Arms that see the same images share most errors, and their difference varies less. Two right and two wrong answers
    are added to each (Agresti and Coull 1998), so that 0 and 100 % do not count as certain.
    """
    shares = [(share * images + 2) / (images + 4) for share in (baseline, candidate)]
    return shares[0] * (1 - shares[0]) + shares[1] * (1 - shares[1])


def compared(
    baseline: Sequence[float | None],
    candidate: Sequence[float | None],
    *,
    images: int | None = None,
    variance: float | None = None,
    values: int | None = None,
    names: tuple[str, str] = ("baseline", "candidate"),
    pairs: Sequence[str] | None = None,
) -> Difference:
    """Read two lists of scores, paired by position: None is missing and leaves its pair out, nan or inf is a run that diverged.

    One that diverged counts as 0, and so does a score below 0 (R² of what is worse than the mean).
    `variance` is that of the mean difference on one of the `images`, where it is known from
    the answers of each run; else errors are taken as independent. For a score that is no share, on one of so many `values`
    (`tasks.image_values`). `names` and `pairs` are what remarks call arms and pairs.
    """
    if len(baseline) != len(candidate):
        raise ConfigError(
            f"a paired verdict needs as many results in both arms; found {len(baseline)} and {len(candidate)}."
        )
    labels = pairs or [f"pair {i + 1}" for i in range(len(baseline))]
    told: list[str] = []
    for name, scores in zip(names, (baseline, candidate), strict=True):
        lost = [label for label, s in zip(labels, scores, strict=True) if s is not None and not math.isfinite(s)]
        gone = [label for label, s in zip(labels, scores, strict=True) if s is None]
        told += [f"{name} diverged with {listing(lost)}, which counts as a score of 0"] if lost else []
        below = [label for label, s in zip(labels, scores, strict=True) if s is not None and s < WORST]
        told += [f"{name} is below 0 with {listing(below)}, which counts as a score of 0"] if below else []
        told += [f"{name} has no result yet with {listing(gone)}, which is left out"] if gone else []
    both = [
        [max(s, WORST) if math.isfinite(s) else WORST for s in (b, c)]
        for b, c in zip(baseline, candidate, strict=True)
        if b is not None and c is not None
    ]
    differences = [c - b for b, c in both]
    if not differences:
        return Difference(None, 0, images=images, remarks=tuple(told))
    spread = statistics.variance(differences) if len(differences) > 1 else 0.0
    mean_b, mean_c = (statistics.fmean(scores) for scores in zip(*both, strict=True))
    known = images is None and values is not None and variance is not None
    by_image = (
        0.0
        if images is None and not known
        else variance
        if variance is not None
        else independent(mean_b, mean_c, images or 1)
    )
    return Difference(
        statistics.fmean(differences),
        len(both),
        spread,
        images,
        float(by_image),
        tuple(told),
        values if known else None,
    )


def verdict(
    baseline: Sequence[float | None],
    candidate: Sequence[float | None],
    *,
    confidence: float = 0.95,
    images: int | None = None,
) -> Verdict:
    """Judge two lists of scores, paired by position, by the interval of their mean difference; see `compared`.

    `images` is how many images each score is a share of. Fewer than two pairs prove nothing, and without `images` pairs
    that all differ by the same do not, either.
    """
    return compared(baseline, candidate, images=images).verdict(confidence)


def judged(found: Mapping[K, Difference], *, confidence: float, correction: str) -> dict[K, Verdict]:
    """The verdicts of differences that are looked at together, each with the interval that its correction gives it."""
    levels_ = levels([difference.p for difference in found.values()], confidence, correction=correction)
    return {key: difference.verdict(own) for (key, difference), own in zip(found.items(), levels_, strict=True)}


def levels(ps: Sequence[float], confidence: float, *, correction: str) -> list[float]:
    """The confidence of each interval where those with these `p` are looked at together.

    `none` leaves it. `bonferroni` gives 1 - (1 - confidence) / k to all k. `holm` gives that to the one with the smallest
    p, 1 - (1 - confidence) / (k - 1) to the next, and so on until one contains 0; from there all have the same. With
    either the chance that any of them leaves out a true 0 is at most 1 - confidence, however they hang together.
    """
    alpha, k = 1 - confidence, len(ps)
    if correction != "holm":
        return [1 - alpha / k if correction == "bonferroni" else confidence] * k
    found = [confidence] * k
    left = k
    for place in sorted(range(k), key=lambda i: ps[i]):
        found[place] = 1 - alpha / left
        left -= left > 1 and ps[place] < alpha / left
    return found


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
    looks: str = "",
) -> str:
    """The sentences that fix, before anything runs, how the verdicts will be reached.

    `epochs` says how long the arms train; everything else about them is the same but for what they compare. `looks` is a
    sentence for one that adds seeds.
    """
    several = len(candidates) > 1
    arms = f"each of {listing(candidates)}" if several else candidates[0]
    number = len(candidates) * groups
    own = percent(levels([1.0] * number, confidence, correction=correction)[0])
    width = "corrected" if correction == "holm" and number > 1 else own
    return (
        f"For each group, {arms} minus {baseline} in final {metric}, paired by seed "
        f"({', '.join(map(str, seeds))}): 'helps' if the {width} interval of the mean difference lies above 0, "
        "'hurts' if it lies below 0, otherwise 'no evidence'. The interval covers chance from seed to seed and, where the score "
        "is a share of images, in the choice of images: by the images on which two runs disagree, and where that was not kept as "
        "if their errors were independent; of other scores by what each image adds to them (a jackknife), where that was kept. "
        "A run that diverges counts as a score of 0. "
        f"{looks}{_chances(number, confidence, correction)}{'All' if several else 'Both'} arms start from the same weights "
        f"and see the same images in the same order {epochs}."
    )


def _chances(number: int, confidence: float, correction: str) -> str:
    """What it means that there are several verdicts."""
    if number < 2:
        return ""
    first = percent(levels([1.0] * number, confidence, correction="bonferroni")[0])
    together = f"so that all of them hold together with {percent(confidence)}"
    if correction == "bonferroni":
        return f"These are {number} comparisons; each interval has {first} {together} (Bonferroni). "
    if correction == "holm":
        return (
            f"These are {number} comparisons; the clearest is judged by an interval of {first}, the next by one a step "
            f"narrower, {together} (Holm). "
        )
    return (
        f"These are {number} comparisons at {percent(confidence)} each, and so {number} chances for a false verdict: nothing "
        "is corrected for that. "
    )


def percent(share: float) -> str:
    """`percent(0.9875)` is `"98.75 %"`."""
    return f"{100 * share:.4g} %"


def listing(names: Sequence[str]) -> str:
    """`listing(["a", "b", "c"])` is `"a, b and c"`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def t_quantile(probability: float, freedom: int) -> float:
    """The value that Student's t with `freedom` degrees of freedom stays below with `probability`."""
    return float(require("scipy.stats", purpose="a verdict").t.ppf(probability, freedom))
