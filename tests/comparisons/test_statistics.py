from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats

from deepsup.comparisons.statistics import level, rule, t_quantile, verdict
from deepsup.errors import ConfigError

CASES = [
    ([0.90, 0.91, 0.92], [0.95, 0.95, 0.96], "helps"),
    ([0.95, 0.95, 0.96], [0.90, 0.91, 0.92], "hurts"),
    ([0.90, 0.91, 0.92], [0.89, 0.95, 0.92], "no evidence"),
    ([0.1, 0.2], [0.3, 0.3], "no evidence"),
    ([0.1, 0.1, 0.1, 0.1, 0.1], [0.11, 0.12, 0.13, 0.12, 0.11], "helps"),
]


@pytest.mark.parametrize(("baseline", "candidate", "word"), CASES)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_interval_is_that_of_scipys_paired_t_test(
    baseline: list[float], candidate: list[float], word: str, confidence: float
):
    found = verdict(baseline, candidate, confidence=confidence)
    test = stats.ttest_rel(candidate, baseline)
    low, high = test.confidence_interval(confidence)
    assert found.ci_low == pytest.approx(low)
    assert found.ci_high == pytest.approx(high)
    significant = test.pvalue < 1 - confidence
    assert (found.verdict != "no evidence") == significant
    if confidence == 0.95:
        assert found.verdict == word


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
    one = verdict([0.1], [0.9])
    assert (one.verdict, one.n, one.ci_low) == ("no evidence", 1, None)
    assert one.mean_difference == pytest.approx(0.8)
    assert "add seeds" in one.reason


def test_equal_differences_give_an_interval_of_width_zero():
    assert verdict([0.5, 0.5], [0.5, 0.5]).verdict == "no evidence"
    assert verdict([0.25, 0.5], [0.5, 0.75]).verdict == "helps"


def test_unpaired_lists_are_refused():
    with pytest.raises(ConfigError, match="found 2 and 1"):
        verdict([1, 2], [1])


def stated(*candidates: str, **options: Any) -> str:
    named: dict[str, Any] = {"metric": "accuracy", "baseline": "plain", "seeds": [3, 4], "confidence": 0.9}
    return rule(**(named | {"candidates": candidates} | options))


def test_the_rule_names_arms_seeds_metric_and_confidence():
    assert stated("aux") == (
        "For each group, aux minus plain in final accuracy, paired by seed (3, 4): 'helps' if the 90 % t interval of the "
        "mean difference lies above 0, 'hurts' if it lies below 0, otherwise 'no evidence'. Both arms start from the same "
        "weights and see the same images in the same order for as many epochs."
    )


def test_the_rule_says_that_many_comparisons_are_many_chances():
    text = stated("dsl", "dhm", "byot")
    assert "each of dsl, dhm and byot minus plain in final accuracy" in text
    assert "'helps' if the 90 % t interval" in text
    assert "These are 3 comparisons at 90 % each, and so 3 chances for a false verdict: nothing is corrected" in text
    assert "All arms start from the same weights" in text
    assert "These are 6 comparisons" in stated("dsl", "dhm", "byot", groups=2)
    assert "These are 2 comparisons at 90 % each" in stated("aux", groups=2)
    assert stated("aux", epochs="for as long as they like").endswith("same order for as long as they like.")


def test_bonferroni_widens_every_interval_so_that_all_of_them_hold():
    text = stated("dsl", "dhm", "byot", correction="bonferroni")
    assert "the 96.67 % t interval" in text
    assert "These are 3 comparisons; each interval has 96.67 % so that all of them hold together with 90 %" in text
    assert level(0.95, 8, correction="bonferroni") == pytest.approx(1 - 0.05 / 8)
    assert level(0.95, 8, correction="none") == level(0.95, 1, correction="bonferroni") == 0.95
    # what 0.05/8 gives away in each of eight comparisons adds up to no more than 0.05, however they hang together
    assert 8 * (1 - level(0.95, 8, correction="bonferroni")) == pytest.approx(0.05)
    wide = verdict([0.1, 0.2, 0.3], [0.2, 0.31, 0.4], confidence=level(0.95, 3, correction="bonferroni"))
    low, high = stats.ttest_rel([0.2, 0.31, 0.4], [0.1, 0.2, 0.3]).confidence_interval(1 - 0.05 / 3)
    assert (wide.ci_low, wide.ci_high) == (pytest.approx(low), pytest.approx(high))
