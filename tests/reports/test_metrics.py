"""Every metric that is offered says what it is."""

from __future__ import annotations

import pytest

from deepsup.reports import metrics


@pytest.mark.parametrize("name", ["accuracy", "mean IoU", "pixel accuracy", "mean Dice", "F1", "Dice", "Jaccard",
                                  "sensitivity", "specificity", "precision", "ROC-AUC", "PR-AUC"])  # fmt: skip
def test_every_score_that_is_offered_is_explained(name: str) -> None:
    from deepsup.tasks import METRICS

    assert name in METRICS
    assert metrics.meaning(name).startswith(f"{name[0].upper()}{name[1:]} is ")
    assert metrics.meaning("something of mine") == ""


def test_a_score_is_written_with_as_many_decimals_as_its_articles_print() -> None:
    assert metrics.percent(0.96344, "accuracy") == "96.3"
    assert metrics.percent(0.96344, "mean IoU") == metrics.percent(0.96344, "something of mine") == "96.34"
