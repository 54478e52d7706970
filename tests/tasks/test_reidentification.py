"""Tests of the task that is scored by a search."""

from __future__ import annotations

import pytest
import torch

from deepsup.errors import ConfigError, DatasetError
from deepsup.reports.metrics import meaning
from deepsup.supervision.objectives import Objective
from deepsup.tasks import TASKS, is_share, retrieval_scores, task_of
from deepsup.tasks.reidentification import Rankings
from deepsup.tasks.task import metrics_of, named
from tests.support.retrieval_data import search, slow_metrics, slow_ranks

TASK = TASKS["re-identification"]


def test_its_metrics_are_those_of_the_ranking_and_counts_are_none_of_them() -> None:
    data = search(0)
    found = Rankings(retrieval_scores(*data))
    judge = slow_metrics(slow_ranks(data, "cosine"))
    counts = judge.pop("queries"), judge.pop("without match")
    assert found.metrics() == pytest.approx(judge)
    assert tuple(found.metrics()) == metrics_of("re-identification", 0)
    told = TASK.record({"main": found}, {"main": found.metrics()})
    assert (told["queries"], told["without match"]) == counts
    assert TASK.record({}, {}) == {}
    assert (found.cpu() + found).metrics() == pytest.approx(judge)


def test_two_tasks_have_a_metric_of_one_name_and_each_its_own() -> None:
    assert "queries" in named("mAP", "re-identification").says  # type: ignore[union-attr]
    assert "labels" in named("mAP", "labels").says  # type: ignore[union-attr]
    assert named("rank-1", "labels") is None
    assert "mAP" in metrics_of("labels", 3)
    assert "queries" in meaning("mAP", "re-identification")
    assert "labels" in meaning("mAP", "labels")
    assert meaning("mAP") == ""  # of which nobody knows what it means
    assert meaning("rank-5").startswith("Rank-5 is ")
    assert is_share("mAP")
    with pytest.raises(
        ConfigError, match=r"identities of 9 classes have no metric 'accuracy'.* They have: mAP, .*is of"
    ):
        TASK.check_metric("accuracy", 9)


def test_no_target_tells_of_a_search_and_no_batch_is_scored() -> None:
    assert task_of(torch.arange(3)) is TASKS["classification"]
    with pytest.raises(DatasetError, match="scored as a whole"):
        TASK.add({}, {"main": torch.zeros(2, 3)}, torch.arange(2), Objective())
