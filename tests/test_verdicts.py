from __future__ import annotations

import pytest
from scipy import stats

from deepsup.errors import ConfigError
from deepsup.training.verdicts import rule, t_quantile, verdict

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


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, 101])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.95, 0.975, 0.9995])
def test_the_quantiles_are_scipys(probability: float, freedom: int):
    assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9, abs=1e-12)


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


def test_the_rule_names_arms_seeds_metric_and_confidence():
    text = rule(metric="accuracy", baseline="plain", candidate="aux", seeds=[3, 4], confidence=0.9)
    for part in ("aux minus plain", "accuracy", "3, 4", "90 %", "helps", "hurts", "no evidence"):
        assert part in text
