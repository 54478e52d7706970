"""Raw scores of a net's outputs by name, and the loss that each is read by."""

from __future__ import annotations

import torch
from torch import nn

import deepsup as ds
from deepsup.tasks.outputs import classes_in, ignored, loss_of, scores_of, with_ensemble


def test_outputs_come_by_name_and_an_ensemble_is_the_mean_of_probabilities() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    net = ds.attach(model, ds.plan(model, torch.randn(2, 4), at=["1"])).train()
    objective = ds.Objective(net.plan)
    found = scores_of(net(torch.randn(2, 4)), objective)
    assert list(found) == ["main", "1"]
    together = with_ensemble(found, objective)["ensemble"]
    assert torch.allclose(together, (found["main"].softmax(1) + found["1"].softmax(1)) / 2, atol=1e-6)
    assert list(with_ensemble({"main": found["main"]}, objective)) == ["main"]


def test_the_main_loss_says_what_is_ignored() -> None:
    objective = ds.Objective(None, loss="cross_entropy(ignore_index=9)")
    assert ignored(objective) == 9
    assert loss_of("anything else", objective) is loss_of("main", objective)


def test_a_single_channel_tells_two_classes_apart() -> None:
    assert [classes_in(torch.zeros(2, c, 4, 4)) for c in (1, 2, 5)] == [2, 2, 5]
