"""What an objective takes from a plan."""

from __future__ import annotations

import pytest
import torch

import deepsup as ds
from deepsup.errors import ConfigError
from deepsup.supervision.planned_terms import edges_of, predictions_of
from tests.support.small_nets import Plain, images


def test_branches_with_mains_loss_have_the_one_that_takes_its_place() -> None:
    plan = ds.plan(Plain(), images(), at=["conv1", "relu2"], loss={"relu2": "squared_hinge"})
    assert [e.loss for e in edges_of(plan, "cross_entropy(smoothing=0.1)")] == [
        "cross_entropy(smoothing=0.1)",
        "squared_hinge",
    ]
    assert edges_of(None, "mse") == ()


def test_every_output_is_known_and_a_loss_of_another_kind_is_refused() -> None:
    plan = ds.plan(Plain(), images(), at=["conv1"])
    assert {name: p.kind for name, p in predictions_of(plan, "cross_entropy").items()} == {
        "main": "class",
        "conv1": "class",
    }
    assert predictions_of(None, "mse") == {}
    for loss in ("mse", torch.nn.BCEWithLogitsLoss()):
        with pytest.raises(ConfigError, match="Say it when planning"):
            predictions_of(plan, loss)
