"""Looking after every seed: by simulation how often it errs however early one stops, and what stopping early saves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deepsup.comparisons.looks import Looks, judged_in_turn, looks_of, unlooked
from deepsup.comparisons.statistics import compared, verdict
from deepsup.settings.comparison import ComparisonConfig
from deepsup.settings.configs import parse
from tests.support.simulated_scores import World, decided, simulate


def stops(world: World, plan: Looks, *, level: float, measured: bool, trials: int = 10_000) -> np.ndarray:
    """The first look that decides, a row a comparison: in which direction, and after how many seeds (the last if none)."""
    drawn = simulate(world, seeds=plan.most, trials=trials)
    looks = np.stack(
        [decided(drawn, level, measured=measured, seeds=k) for k in range(plan.first, plan.most + 1)], axis=1
    )
    first = np.where(np.abs(looks).any(1), np.abs(looks).argmax(1), plan.number - 1)
    return np.stack([looks[np.arange(trials), first], first + plan.first], axis=1)


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("plan", [Looks(2, 10), Looks(3, 10), Looks(3, 20), Looks(5, 6)])
def test_however_often_one_looks_at_most_five_percent_are_false(plan: Looks, measured: bool):
    for images in (100, 360, 2000, 10_000):
        for k in (1, 4, 16):
            for shared, tau in ((0.0, 0.0), (0.5, 0.01), (1.0, 1 / images), (0.0, 0.02)):
                world = World(images, k, shared=shared, tau=tau)
                found = stops(world, plan, level=plan.level(0.95), measured=measured, trials=4000)
                assert np.abs(found[:, 0]).mean() <= 0.05, world


def test_looking_at_five_percent_each_time_would_err_far_more_often():
    plan, world = Looks(3, 20), World(10_000, 16, tau=0.01)
    assert np.abs(stops(world, plan, level=0.95, measured=True)[:, 0]).mean() > 0.15


@pytest.mark.parametrize(
    ("gap", "share", "seeds"),
    [(0.01, 0.85, 10.0), (0.02, 0.99, 6.5), (0.04, 0.99, 4.5)],  # found; seeds on the average of at most 12
)
def test_a_large_gap_is_found_early_and_a_small_one_with_more_seeds(gap: float, share: float, seeds: float):
    world = World(10_000, 500, shared=0.3, tau=0.005, gap=gap)
    found = stops(world, Looks(3, 12), level=Looks(3, 12).level(0.95), measured=True)
    assert (found[:, 0] == 1).mean() >= share
    assert found[:, 1].mean() <= seeds
    assert (found[:, 0] == -1).mean() < 0.001


BASELINE = [0.50, 0.51, 0.49, 0.50, 0.51]
CANDIDATE = [0.70, 0.62, 0.66, 0.66, 0.67]


def looked(k: int, *, confidence: float = 0.95, candidate: list[float] = CANDIDATE) -> tuple:  # type: ignore[type-arg]
    plan = Looks(2, 6)
    seen = [{"aux": compared(BASELINE[:n], candidate[:n], images=5000)} for n in range(2, k + 1)]
    return judged_in_turn(seen, plan=plan, confidence=confidence, correction="holm")["aux"]


def test_the_interval_is_what_those_of_all_looks_have_in_common():
    alone = [verdict(BASELINE[:n], CANDIDATE[:n], images=5000, confidence=1 - 0.05 / 5) for n in (2, 3, 4, 5)]
    for k in (2, 3, 4, 5):
        found, history = looked(k)
        assert len(history) == k - 1
        assert found.ci_low == max(one.ci_low or -1 for one in alone[: k - 1]) == history[-1]["ci_low"]
        assert found.ci_high == min(one.ci_high or 1 for one in alone[: k - 1]) == history[-1]["ci_high"]
        assert found.p == pytest.approx(min(1, 5 * min(one.p for one in alone[: k - 1])))
        assert found.confidence == pytest.approx(0.95)
        assert (found.verdict == "helps") == (found.ci_low > 0)
    assert looked(3)[0].reason == "undecided after 3 of at most 6 seeds"
    assert looked(5)[0].reason.startswith("decided after ")


def test_a_verdict_that_was_reached_stays():
    first = next(k for k in (2, 3, 4, 5) if looked(k)[0].verdict == "helps")
    assert first < 5
    worse = [*CANDIDATE[:first], *[0.3] * (5 - first)]
    found, _ = looked(5, candidate=worse)
    assert found.verdict == "helps"
    assert found.reason == f"decided after {first} seeds"
    assert verdict(BASELINE, worse, images=5000).verdict == "no evidence"


def test_looks_that_contradict_one_another_decide_nothing():
    plan = Looks(2, 3)
    up, down = compared([0.1] * 2, [0.9] * 2, images=5000), compared([0.9] * 3, [0.1] * 3, images=5000)
    found, _ = judged_in_turn([{"a": up}, {"a": down}], plan=plan, confidence=0.95, correction="holm")["a"]
    assert (found.verdict, found.reason) == ("no evidence", "looks after different seeds contradict one another")


def test_nothing_to_look_at_is_no_evidence_and_no_error():
    assert judged_in_turn([], plan=Looks(3, 5), confidence=0.95, correction="holm") == {}
    early = unlooked(compared([0.1, 0.1], [0.9, 0.9], images=1000), Looks(3, 5), 0.95)
    assert (early.verdict, early.ci_low, early.p) == ("no evidence", None, 1.0)
    assert early.reason == "the first look is after 3 seeds"
    lost = compared([math.nan] * 3, [None] * 3)
    found, history = judged_in_turn([{"a": lost}], plan=Looks(3, 5), confidence=0.95, correction="none")["a"]
    assert (found.verdict, history[0]["ci_low"]) == ("no evidence", None)


def test_looks_begin_with_the_seeds_that_are_set_or_the_second():
    def of(**settings: object) -> Looks | None:
        config = parse({"methods": ["none", "label-smoothing"], **settings})
        assert isinstance(config, ComparisonConfig)
        return looks_of(config)

    assert of(seeds=[0, 1, 2, 3], until="decided", max_seeds=10) == Looks(4, 10)
    assert of(seeds=[0], until="decided", max_seeds=10) == Looks(2, 10)
    assert of(seeds=[0, 1]) is None
    assert Looks(4, 10).number == 7
    assert Looks(4, 10).level(0.93) == pytest.approx(0.99)
    assert "at 99 % for all 7 to hold together with 93 %" in Looks(4, 10).rule(0.93)
