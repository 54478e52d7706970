"""A third task is one class and its metrics: nothing else has to know of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup import predictions
from deepsup.errors import ConfigError
from deepsup.evaluation.evaluate import evaluate
from deepsup.predictions import Word
from deepsup.reports.metrics import digits, meaning
from deepsup.supervision.objectives import Objective
from deepsup.tasks import METRICS, TASKS, task_of
from deepsup.tasks.classification import Table
from deepsup.tasks.task import Counts, Task, Values, metric, metrics_of, named, register, shown


class Tags(Counts):
    """Of each sample and tag whether it was said rightly."""

    def __init__(self, right: int = 0, all_: int = 0) -> None:
        self.right, self.all = right, all_

    def __add__(self, other: Tags) -> Tags:
        return Tags(self.right + other.right, self.all + other.all)

    def cpu(self) -> Tags:
        return self

    def metrics(self) -> Values:
        return {"tag accuracy": self.right / self.all} if self.all else {}


def bce(scores: Tensor, target: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(scores, target)


@pytest.fixture
def tagging() -> Iterator[None]:
    """A task in which an image has any number of tags, as long as a test runs."""
    before, known, words = dict(TASKS), dict(METRICS), dict(predictions.TASKS)

    @register
    class Tagging(Task):
        name = "tagging"
        targets = "tags"
        labelled = "any number of tags"
        metric = "tag accuracy"
        word = Word("labels", None, "binary(pos_weight=2.0)")
        writer = Table

        def takes(self, target: Any, kind: str, places: int | None) -> bool:
            return isinstance(target, Tensor) and target.is_floating_point() and target.ndim == 2

        def add(self, counts: dict[str, Tags], found: dict[str, Tensor], target: Tensor, objective: Objective) -> None:
            for name, scores in found.items():
                right = ((scores > 0) == (target > 0)).sum()
                counts[name] = counts.get(name, Tags()) + Tags(int(right), target.numel())

    metric("tag accuracy", "the share of tags that are right", task="tagging", digits=3)(lambda tags: tags.right)
    yield
    for table, old in ((TASKS, before), (METRICS, known), (predictions.TASKS, words)):
        table.clear()
        table.update(old)


@pytest.mark.usefixtures("tagging")
def test_plan_knows_a_new_task_by_its_word() -> None:
    plan = ds.plan(
        nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), torch.zeros(2, 6), at=["1"], task="tagging"
    )
    assert plan.main_loss == plan.branches[0].loss == "binary(pos_weight=2.0)"
    assert plan.prediction is not None
    assert plan.prediction.kind == "labels"
    with pytest.raises(ConfigError, match=r"there is no task 'taging'\. Closest: tagging"):
        predictions.word("taging")


def test_every_task_has_a_word() -> None:
    assert set(predictions.TASKS) == set(TASKS)
    assert {name: word for name, word in predictions.TASKS.items() if word.kind not in predictions.KINDS} == {}


@pytest.mark.usefixtures("tagging")
def test_a_third_task_is_trained_evaluated_and_told_without_another_file_knowing_of_it(tmp_path: Path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(64, 6)
    data = [(x, (x[:, :3] > 0).float())]
    plan = ds.plan(net, x, at=["1"], head="linear", loss=bce, branch_loss=bce, classes=3)
    supervised, objective = ds.attach(net, plan), Objective(plan)
    before = evaluate(supervised, data, objective=objective)
    assert before.metric == "tag accuracy"
    assert set(before.score) == {"main", "1"}
    result = ds.fit(
        supervised, data, objective=objective, validation=data, epochs=60, optimizer="adam", lr=0.02, folder=tmp_path
    )
    assert result.metric == "tag accuracy"
    assert result.score == evaluate(supervised, data, objective=objective).score["main"]
    assert result.score > max(0.9, before.score["main"])
    assert (digits("tag accuracy"), meaning("tag accuracy")) == (3, "Tag accuracy is the share of tags that are right.")
    with pytest.raises(
        ConfigError, match=r"tags of 3 classes have no metric 'F1'.* They have: tag accuracy\. 'F1' is of"
    ):
        evaluate(net, data, objective=Objective(loss=bce), metric="F1")


def test_the_targets_decide_the_task():
    assert task_of(torch.zeros(2, 4, 4).long()) is TASKS["segmentation"]
    assert task_of(torch.zeros(2).byte()) is TASKS["classification"]
    for other in (torch.zeros(2, 3), None, [1, 2]):  # nothing is counted of these
        assert task_of(other) is TASKS["classification"]


def test_metrics_are_listed_where_they_are_written():
    assert metrics_of("classification", 10) == ("accuracy",)
    assert metrics_of("segmentation", 3) == ("mean IoU", "pixel accuracy", "mean Dice")
    two = ("F1", "Dice", "Jaccard", "sensitivity", "specificity", "precision", "ROC-AUC", "PR-AUC")
    assert metrics_of("segmentation", 2) == (*metrics_of("segmentation", 3), *two)


@pytest.mark.usefixtures("tagging")
def test_a_name_is_written_in_one_way_whatever_the_task():
    metric("tag accuracy", "the same elsewhere", task="labels", digits=3)(len)
    assert named("tag accuracy", "labels").says == "the same elsewhere"
    assert named("tag accuracy", "tagging").says.startswith("the share")
    assert named("tag accuracy").task == "tagging"
    with pytest.raises(ConfigError, match="labels writes 'tag accuracy' in another way than tagging"):
        metric("tag accuracy", "an error", task="labels", digits=3, lower=True)(len)


def test_settings_of_another_task_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"crop, tile: not for digits, which has one label an image.*a label a pixel"):
        TASKS["classification"].check_options(["crop", "tile", "views"], of="digits")
    with pytest.raises(ConfigError, match=r"views: not for pairs, which has a label a pixel"):
        TASKS["segmentation"].check_options(["views", "crop"], of="pairs")


def test_an_error_is_shown_in_its_unit_and_a_share_in_percent() -> None:
    assert (shown("accuracy", 0.1234), shown("RMSE", 2.53219), shown("my own", 0.5)) == ("12.3%", "2.532", "50.0%")
    assert shown("RMSE", None) == "-"
