"""What a comparison can see: against simulated comparisons, and Student's t with a gap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from deepsup.comparisons.detectable import detectable, lacking, power, seeds_needed, stated
from deepsup.comparisons.statistics import compared, half_width


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("gap", [0.005, 0.01, 0.02, 0.05])
def test_without_images_power_is_that_of_the_t_test(n: int, gap: float):
    spread, t = 0.01**2, stats.t.ppf(0.975, n - 1)
    exact = stats.nct.sf(t, n - 1, gap / math.sqrt(spread / n))
    assert power(gap, n, spread, None, 0.0, confidence=0.95) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("images", [360, 2000, 10_000])
@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_the_difference_that_is_said_to_be_seen_is_seen_four_times_in_five(n: int, images: int, confidence: float):
    spread, variance, draw = 0.01**2, 0.1, np.random.default_rng(0)
    gap = detectable(n, spread, images, variance, confidence=confidence)
    assert gap is not None
    effects = draw.normal(0, 0.01, (20_000, n)) + draw.normal(0, math.sqrt(variance / images), (20_000, 1)) + gap
    half = half_width(confidence, n, effects.var(1, ddof=1), images, variance)
    assert (effects.mean(1) > half).mean() == pytest.approx(0.8, abs=0.015)


def test_what_three_seeds_cannot_see_is_said():
    """The fault: with 3 seeds and a spread of 2.5 points only gaps above 6 show."""
    assert (detectable(3, 0.025**2, None, 0.0, confidence=0.95) or 0) > 0.06
    assert detectable(1, 0.01, None, 0.0, confidence=0.95) is None
    assert detectable(2, 0.3, None, 0.0, confidence=0.95) is None
    says = stated(3, 2000, [], metric="accuracy", confidence=0.95)
    assert says["says"] == (
        "With 3 seeds and 2,000 validation images this comparison sees differences of 3.8 points of accuracy or more, four "
        "times in five: assumed that the difference deviates by 1 points from seed to seed and two runs disagree on 10 % of the "
        "images."
    )
    assert says["difference"] == pytest.approx(0.038, abs=0.001)
    pilot = [compared([0.5, 0.5], [0.5, 0.6], images=100), compared([0.5], [0.9], images=100)]
    told = stated(10, 100, pilot, metric="accuracy", confidence=0.95)
    assert told["pilot"]
    assert (
        "in the runs that are there the difference deviates by 7.1 points from seed to seed and varies by 0.7"
        in told["says"]
    )
    maps = stated(2, None, [], metric="mean IoU", confidence=0.95)
    assert "With 2 seeds this comparison sees differences of 12 points of mean IoU" in maps["says"]
    assert "image" not in maps["says"]
    assert "sees no difference at all" in stated(1, None, [], metric="mean IoU", confidence=0.95)["says"]


def test_so_many_seeds_as_are_said_to_be_lacking_are_enough_and_fewer_are_not():
    difference = compared([0.568, 0.596, 0.5835], [0.611, 0.591, 0.6155], images=2000, variance=0.05)
    needed = seeds_needed(difference, confidence=0.95)
    assert needed is not None
    parts = difference.spread, 2000, 0.05
    assert power(difference.mean or 0, needed, *parts, confidence=0.95) >= 0.8
    assert power(difference.mean or 0, needed - 1, *parts, confidence=0.95) < 0.8
    stricter = seeds_needed(difference, confidence=0.99)
    assert stricter is not None
    assert stricter > needed
    alone = compared([0.568, 0.596, 0.5835], [0.611, 0.591, 0.6155], images=2000)  # by images alone 3.1 points
    assert seeds_needed(alone, confidence=0.95) is None
    assert seeds_needed(compared([0.1], [0.2]), confidence=0.95) is None


def test_the_lack_of_seeds_is_a_remark_where_there_was_no_evidence():
    names = "none", "aux"
    difference = compared([0.568, 0.596, 0.5835], [0.611, 0.591, 0.6155], images=2000, variance=0.05)
    told = lacking(difference, difference.verdict(0.95), 0.95, names=names)
    assert told["remarks"] == [
        f"aux minus none: about {told['needed']} seeds would show a difference of this size four times in five on these images"
    ]
    never = compared([0.568, 0.596, 0.5835], [0.611, 0.591, 0.6155], images=2000)
    (remark,) = lacking(never, never.verdict(0.95), 0.95, names=names)["remarks"]
    assert remark.startswith("aux minus none: not even 1,000 seeds would show")
    for decided in (
        compared([0.1] * 3, [0.9] * 3, images=5000),
        compared([0.1], [0.2]),
        compared([0.5] * 3, [0.5] * 3, images=9),
    ):
        assert lacking(decided, decided.verdict(0.95), 0.95, names=names) == {"needed": None, "remarks": []}
