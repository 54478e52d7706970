"""The interval against scipy and closed forms, and by simulation: how often it errs where there is nothing, and what it finds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from deepsup.comparisons import statistics
from deepsup.comparisons.image_variance import variance
from deepsup.comparisons.statistics import compared, half_width, judged, levels, rule, t_quantile, verdict
from deepsup.errors import ConfigError
from tests.support.simulated_scores import World, decided, simulate

CASES = [
    ([0.90, 0.91, 0.92], [0.95, 0.95, 0.96], "helps"),
    ([0.95, 0.95, 0.96], [0.90, 0.91, 0.92], "hurts"),
    ([0.90, 0.91, 0.92], [0.89, 0.95, 0.92], "no evidence"),
    ([0.1, 0.2], [0.3, 0.3], "no evidence"),
    ([0.1, 0.1, 0.1, 0.1, 0.1], [0.11, 0.12, 0.13, 0.12, 0.11], "helps"),
]


@pytest.mark.parametrize(("baseline", "candidate", "word"), CASES)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_without_images_the_interval_is_that_of_scipys_paired_t_test(
    baseline: list[float], candidate: list[float], word: str, confidence: float
):
    found = verdict(baseline, candidate, confidence=confidence)
    test = stats.ttest_rel(candidate, baseline)
    low, high = test.confidence_interval(confidence)
    assert found.ci_low == pytest.approx(low)
    assert found.ci_high == pytest.approx(high)
    assert found.p == pytest.approx(test.pvalue, rel=1e-6)
    assert (found.verdict != "no evidence") == (test.pvalue < 1 - confidence)
    if confidence == 0.95:
        assert found.verdict == word


def test_with_images_the_interval_is_that_of_the_seeds_and_that_of_the_images_and_half_an_answer():
    baseline, candidate, n = [0.90, 0.91, 0.92], [0.95, 0.95, 0.96], 2000
    found = verdict(baseline, candidate, images=n)
    seeds = stats.ttest_rel(candidate, baseline).confidence_interval(0.95)
    a = (seeds.high - seeds.low) / 2
    shares = [(np.mean(scores) * n + 2) / (n + 4) for scores in (baseline, candidate)]
    b = stats.t.ppf(0.975, n - 1) * math.sqrt(sum(p * (1 - p) for p in shares) / n)
    assert (found.ci_high or 0) - (found.mean_difference or 0) == pytest.approx(math.hypot(a, b) + 1 / n)
    assert (found.verdict, found.images) == ("helps", n)
    for images, word in ((100, "no evidence"), (10_000, "helps")):
        assert verdict(baseline, candidate, images=images).verdict == word


@pytest.mark.parametrize("images", [None, 100, 2000])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("baseline", "candidate", "word"), CASES)
def test_p_is_where_the_interval_begins_to_contain_0(
    baseline: list[float], candidate: list[float], word: str, confidence: float, images: int | None
):
    found = verdict(baseline, candidate, images=images, confidence=confidence)
    assert (found.verdict != "no evidence") == (found.p < 1 - confidence)
    if found.p < 1:
        apart = compared(baseline, candidate, images=images)
        assert apart.half(1 - found.p) == pytest.approx(abs(apart.mean or 0), rel=1e-6)


def test_the_interval_ends_where_differences_of_shares_do():
    found = verdict([0.08, 0.94, 0.97], [0.97, 0.975, 0.978], images=360)
    assert found.ci_high == 1.0
    assert (verdict([0.08, 0.94, 0.97], [0.97, 0.975, 0.978]).ci_high or 0) > 1


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 4, 2.776), (0.995, 2, 9.925), (0.99, 9, 2.821), (0.975, 30, 2.042)],
)
def test_the_quantiles_are_those_of_the_printed_tables(probability: float, freedom: int, value: float):
    assert t_quantile(probability, freedom) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("probability", [0.5, 0.6, 0.95, 0.975, 0.9995])
def test_the_quantiles_are_those_of_the_closed_forms(probability: float):
    tangent = math.tan(math.pi * (probability - 0.5))  # one degree of freedom: Cauchy
    assert t_quantile(probability, 1) == pytest.approx(tangent, rel=1e-9, abs=1e-12)
    share = 2 * probability - 1  # two: t = a sqrt(2 / (1 - a^2))
    assert t_quantile(probability, 2) == pytest.approx(share * math.sqrt(2 / (1 - share**2)), rel=1e-9, abs=1e-12)


def test_too_few_pairs_prove_nothing():
    assert verdict([], []).verdict == "no evidence"
    for images in (None, 10_000):
        one = verdict([0.1], [0.9], images=images)
        assert (one.verdict, one.n, one.ci_low, one.p) == ("no evidence", 1, None, 1.0)
        assert one.mean_difference == pytest.approx(0.8)
        assert "add seeds" in one.reason


@pytest.mark.parametrize("images", [None, 100, 360])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_ties_decide_nothing(n: int, images: int | None):
    for low, high in ((0.5, 0.51), (0.5, 0.5), (0.0, 0.0), (0.99, 1.0)):
        for baseline, candidate in ((low, high), (high, low)):
            found = verdict([baseline] * n, [candidate] * n, images=images)
            assert found.verdict == "no evidence"
            assert (found.ci_low is None) == (images is None)
            assert images is None or (found.ci_high or 0) - (found.ci_low or 0) > 2 / images
    shifted = verdict([0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.5, 0.6])  # equal but for rounding
    assert (shifted.verdict, shifted.ci_low) == ("no evidence", None)
    assert "all pairs differ by the same" in shifted.reason


def test_equal_differences_far_beyond_what_the_images_allow_do_decide():
    assert verdict([0.1, 0.1], [0.9, 0.9], images=1000).verdict == "helps"


def test_what_is_not_a_number_is_a_run_that_diverged_and_none_is_one_that_is_missing():
    found = verdict([0.5, 0.5, math.nan, None], [0.6, math.inf, math.nan, 0.9])
    assert found.n == 3
    assert found.mean_difference == pytest.approx((0.1 - 0.5 + 0) / 3)
    assert found.remarks == [
        "baseline diverged with pair 3, which counts as a score of 0",
        "baseline has no result yet with pair 4, which is left out",
        "candidate diverged with pair 2 and pair 3, which counts as a score of 0",
    ]
    for nothing in (math.nan, math.inf, -math.inf):
        all_lost = verdict([nothing, nothing], [nothing, nothing], images=50)
        assert (all_lost.verdict, all_lost.mean_difference) == ("no evidence", 0.0)
        assert verdict([0.9] * 3, [nothing] * 3, images=1000).verdict == "hurts"
    assert verdict([None], [None], images=3).n == 0


def test_unpaired_lists_are_refused():
    with pytest.raises(ConfigError, match="found 2 and 1"):
        verdict([1, 2], [1])


def stated(*candidates: str, **options: Any) -> str:
    named: dict[str, Any] = {"metric": "accuracy", "baseline": "plain", "seeds": [3, 4], "confidence": 0.9}
    return rule(**(named | {"candidates": candidates} | options))


def test_the_rule_names_arms_seeds_metric_and_confidence():
    assert (
        stated("aux")
        == stated("aux", correction="holm")
        == (
            "For each group, aux minus plain in final accuracy, paired by seed (3, 4): 'helps' if the 90 % interval of the "
            "mean difference lies above 0, 'hurts' if it lies below 0, otherwise 'no evidence'. The interval covers chance from "
            "seed to seed and, where the score is a share of images, in the choice of images: by the images on which two "
            "runs disagree, and where that was not kept as if their errors were independent; of other scores by what each image "
            "adds to them (a jackknife), where that was kept. A run that diverges counts as a score of "
            "0. Both arms start from the same weights and see the same images in the same order for as many epochs."
        )
    )


def test_the_rule_says_that_many_comparisons_are_many_chances():
    text = stated("dsl", "dhm", "byot")
    assert "each of dsl, dhm and byot minus plain in final accuracy" in text
    assert "'helps' if the 90 % interval" in text
    assert "These are 3 comparisons at 90 % each, and so 3 chances for a false verdict: nothing is corrected" in text
    assert "All arms start from the same weights" in text
    assert "These are 6 comparisons" in stated("dsl", "dhm", "byot", groups=2)
    assert "These are 2 comparisons at 90 % each" in stated("aux", groups=2)
    assert stated("aux", epochs="for as long as they like").endswith("same order for as long as they like.")


def test_the_rule_says_how_many_comparisons_are_corrected_for():
    text = stated("dsl", "dhm", "byot", correction="bonferroni")
    assert "the 96.67 % interval" in text
    assert "These are 3 comparisons; each interval has 96.67 % so that all of them hold together with 90 %" in text
    text = stated("dsl", "dhm", "byot", correction="holm")
    assert "the corrected interval" in text
    assert "These are 3 comparisons; the clearest is judged by an interval of 96.67 %, the next by one a step" in text
    assert "all of them hold together with 90 % (Holm)" in text


def test_holm_gives_each_its_level_from_the_smallest_p_on_until_one_fails():
    assert levels([0.04, 0.001, 0.015], 0.95, correction="holm") == pytest.approx([0.95, 1 - 0.05 / 3, 0.975])
    assert levels([0.04, 0.03, 0.001], 0.95, correction="holm") == pytest.approx([0.975, 0.975, 1 - 0.05 / 3])
    assert levels([1.0] * 4, 0.95, correction="holm") == [1 - 0.05 / 4] * 4
    assert levels([1.0] * 8, 0.95, correction="bonferroni") == [1 - 0.05 / 8] * 8
    assert levels([0.0, 1.0], 0.95, correction="none") == [0.95, 0.95]
    assert levels([], 0.95, correction="holm") == []
    assert levels([0.2], 0.9, correction="holm") == pytest.approx([0.9])


def test_holms_verdicts_are_those_of_the_adjusted_p_values():
    draw = np.random.default_rng(1)
    for _ in range(50):
        found = {
            i: compared(list(draw.normal(0.5, 0.01, 4)), list(draw.normal(0.5 + 0.02 * i, 0.01, 4))) for i in range(5)
        }
        ps = np.array([difference.p for difference in found.values()])
        order = np.argsort(ps)
        adjusted = np.empty(5)
        adjusted[order] = np.maximum.accumulate(np.minimum(1, ps[order] * np.arange(5, 0, -1)))
        words = judged(found, confidence=0.95, correction="holm")
        assert [v.verdict != "no evidence" for v in words.values()] == list(adjusted < 0.05)
        for own in words.values():  # and the interval says the same as the word
            assert ((own.ci_low or 0) > 0 or (own.ci_high or 0) < 0) == (own.verdict != "no evidence")


def test_a_nan_among_many_arms_stops_no_verdict():
    found = {name: compared([0.5, 0.5], scores) for name, scores in {"a": [math.nan] * 2, "b": [None] * 2}.items()}
    words = judged(found, confidence=0.95, correction="holm")
    assert (words["a"].verdict, words["b"].verdict) == ("no evidence", "no evidence")
    assert statistics.listing(["x"]) == "x"


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("images", [100, 360, 2000, 10_000])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_where_there_is_nothing_at_most_six_percent_of_verdicts_at_five_are_false(
    seeds: int, images: int, measured: bool
):
    for k in (1, 2, 4, 8, 16):
        for shared in (0.0, 0.5, 1.0):
            for tau in (0.0, 4 / images, 0.01):
                world = World(images, k, shared=shared, tau=tau)
                found = decided(simulate(world, seeds=seeds, trials=10_000, seed=k), 0.95, measured=measured)
                assert np.abs(found).mean() <= 0.06, world


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
def test_the_t_interval_over_seeds_alone_would_fail_that(k: int):
    trials = simulate(World(360, k), seeds=2, trials=20_000)
    half = half_width(0.95, 2, trials.differences.var(1, ddof=1), None, 0.0)
    false = (np.abs(trials.differences.mean(1)) > half + 1e-12).mean()
    assert false > 0.06  # 8.9, 11.1, 10.1, 8.1 and 6.6 %
    same = simulate(
        World(2000, 16, shared=1.0, tau=0.0005), seeds=10, trials=5000
    )  # the images are those of every seed
    half = half_width(0.95, 10, same.differences.var(1, ddof=1), None, 0.0)
    assert (np.abs(same.differences.mean(1)) > half).mean() > 0.5


@pytest.mark.parametrize("measured", [True, False])
def test_where_images_are_hard_for_both_arms_verdicts_are_seldom_false(measured: bool):
    """Single answers: an image is as hard for both, an arm has favourites, and seeds differ as a whole and by image."""
    draw = np.random.default_rng(3)
    trials, seeds, images = 600, 3, 360
    hard = draw.normal(-1, 1.5, (trials, 1, images))
    right = [
        hard
        + draw.normal(0, 0.7, (trials, 1, images))
        + draw.normal(0, 0.2, (trials, seeds, 1))
        + draw.normal(0, 0.5, (trials, seeds, images))
        < 0
        for _ in range(2)
    ]
    false = 0
    for baseline, candidate in zip(*right, strict=True):
        pairs = [(torch.from_numpy(b), torch.from_numpy(c)) for b, c in zip(baseline, candidate, strict=True)]
        by_image = variance(pairs) if measured else None
        found = compared(list(baseline.mean(1)), list(candidate.mean(1)), images=images, variance=by_image)
        false += abs(found.mean or 0) > (found.half(0.95) or 0)
    assert false / trials <= 0.06


POWER = [  # images, disagreeing, seeds, deviation of seeds, gap; share found with answers kept, without; accuracy 85 % or so
    (360, 20, 3, 0.005, 0.06, 0.93, 0.50),
    (2000, 200, 3, 0.003, 0.02, 0.57, 0.10),
    (2000, 200, 3, 0.003, 0.04, 0.97, 0.93),
    (10_000, 800, 3, 0.005, 0.02, 0.82, 0.73),
    (10_000, 800, 5, 0.005, 0.01, 0.73, 0.15),
    (10_000, 800, 10, 0.005, 0.01, 0.96, 0.38),
]


@pytest.mark.parametrize(("images", "disagreeing", "seeds", "tau", "gap", "kept", "lost"), POWER)
def test_a_gap_of_sensible_size_is_found(
    images: int, disagreeing: float, seeds: int, tau: float, gap: float, kept: float, lost: float
):
    trials = simulate(World(images, disagreeing, shared=0.3, tau=tau, gap=gap, common=0.1), seeds=seeds, trials=5000)
    for measured, share in ((True, kept), (False, lost)):
        found = decided(trials, 0.95, measured=measured)
        assert (found == 1).mean() >= share
        assert (found == -1).mean() < 0.001


def test_among_many_arms_without_a_difference_a_false_verdict_is_as_seldom_as_with_one():
    draw = np.random.default_rng(2)
    false = 0
    for _ in range(300):
        none = draw.normal(0.5, 0.01, 4)
        arms = {arm: compared(list(none), list(none + draw.normal(0, 0.01, 4))) for arm in range(6)}
        arms[6] = compared(list(none), list(none + 0.2 + draw.normal(0, 0.01, 4)))  # one that is better
        words = judged(arms, confidence=0.95, correction="holm")
        false += any(words[arm].verdict != "no evidence" for arm in range(6))
        assert words[6].verdict == "helps"
    assert false / 300 <= 0.06
    plain = [verdict(list(draw.normal(0.5, 0.01, 4)), list(draw.normal(0.5, 0.01, 4))) for _ in range(600)]
    alone = np.array([found.verdict != "no evidence" for found in plain]).reshape(100, 6)
    assert alone.any(1).mean() > 0.15  # nothing corrected


def test_a_score_below_0_counts_as_0_as_one_that_diverged_does() -> None:
    found = statistics.compared([-3.0, 0.2, 0.1], [math.nan, 0.4, -0.5], names=("plain", "aux"))
    assert found.mean == pytest.approx((0.0 + 0.2 - 0.1) / 3)
    assert "plain is below 0 with pair 1, which counts as a score of 0" in found.remarks
    assert "aux is below 0 with pair 3, which counts as a score of 0" in found.remarks
