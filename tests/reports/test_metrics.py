"""Every metric that is offered says what it is."""

from __future__ import annotations

import pytest

from deepsup.reports import metrics


@pytest.mark.parametrize("name", ["accuracy", "mean IoU", "pixel accuracy", "mean Dice", "F1", "Dice", "Jaccard",
                                  "sensitivity", "specificity", "precision", "ROC-AUC", "PR-AUC"])  # fmt: skip
def test_every_score_that_is_offered_is_explained(name: str) -> None:
    from deepsup.tasks.task import named

    assert named(name)
    assert metrics.meaning(name).startswith(f"{name[0].upper()}{name[1:]} is ")
    assert metrics.meaning("something of mine") == ""


def test_a_score_is_written_with_as_many_decimals_as_its_articles_print() -> None:
    assert metrics.score(0.96344, "accuracy") == "96.3"
    assert metrics.score(0.96344, "mean IoU") == metrics.score(0.96344, "something of mine") == "96.34"


def test_values_are_numbers_and_not_percent() -> None:
    assert metrics.score(0.87806, "R²") == metrics.value("R²", 0.87806) == "0.8781"
    assert metrics.score(1234.56, "RMSE") == "1235"
    assert metrics.spread(0.5, 0.25, "R²") == "0.5 ± 0.25"
    assert metrics.spread(0.5, 0.25, "mAP") == "50.00 ± 25.00"
    assert metrics.difference(0.0125, "R²") == "+0.0125"
    assert metrics.difference(-0.0125, "R²").endswith("0.0125")
    assert metrics.difference(0.0125, "mAP") == "+1.25"
    assert (metrics.unit("R²"), metrics.unit("mAP")) == ("", " %")
    assert metrics.measured_in("R²") == "of R²"
    assert metrics.measured_in("accuracy") == "points of accuracy"


def test_a_sentence_begins_with_a_name_as_it_is_written() -> None:
    assert [metrics.titled(name) for name in ("mean IoU", "mAP", "mINP", "R²")] == ["Mean IoU", "mAP", "mINP", "R²"]
