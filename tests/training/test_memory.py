"""What a step keeps for its backward: counted by hand, and without a trace."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import deepsup as ds
from deepsup.training.memory import peak_bytes, saved_bytes
from tests.support.small_nets import Plain, images, labels, mlp

FLOAT, LONG = 4, 8
MEAN = FLOAT + LONG + 1  # the sum of the labels' weights, how many labels count, and whether any does


@pytest.mark.parametrize("batch", [2, 7])
def test_every_storage_counts_once_and_weights_do_not(batch: int) -> None:
    net = mlp(4, 8, 3)
    x, y = torch.randn(batch, 4), torch.arange(batch) % 3
    # The input, what ReLU gives out (which the second layer reads), log-probabilities and labels; and of the mean what it
    # is over.
    by_hand = batch * (4 * FLOAT + 8 * FLOAT + 3 * FLOAT + LONG) + MEAN
    assert saved_bytes(net, ds.Objective(), (x, y)) == by_hand
    for p in net[0].parameters():
        p.requires_grad_(False)
    assert saved_bytes(net, ds.Objective(), (x, y)) == batch * (8 * FLOAT + 3 * FLOAT + LONG) + MEAN


def test_a_view_keeps_its_whole_storage() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x[:, :4])

    x, y = torch.randn(5, 1000), torch.zeros(5, dtype=torch.long)
    assert saved_bytes(Half(), ds.Objective(), (x, y)) == 5 * (1000 * FLOAT + 3 * FLOAT + LONG) + MEAN


def test_a_branch_costs_what_its_head_keeps() -> None:
    torch.manual_seed(0)
    model = Plain()
    batch = images(4), labels(4)
    plain = saved_bytes(model, ds.Objective(), batch)
    plan = ds.plan(model, images(), at=["relu1"], head="pool")
    net = ds.attach(model, plan)
    extra = saved_bytes(net, ds.Objective(plan), batch) - plain
    # The pooled activation, the head's log-probabilities, and what the mean is over; the activation itself is kept by the
    # next convolution already, the labels by the main loss.
    assert extra == 4 * (8 + 5) * FLOAT + MEAN


def test_recomputing_keeps_less() -> None:
    class Recomputed(Plain):
        def forward(self, x: Tensor) -> Tensor:
            inside: Any = nn.Sequential(self.conv1, self.relu1, self.conv2, self.relu2)
            return self.fc(self.pool(checkpoint(inside, x, use_reentrant=False)).flatten(1))

    batch = images(4), labels(4)
    assert saved_bytes(Recomputed(), ds.Objective(), batch) < saved_bytes(Plain(), ds.Objective(), batch) / 4


class Counted(nn.Module):
    """A loss with a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return F.cross_entropy(prediction, target)


def test_nothing_is_left_of_the_measurement() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 196, 5))
    loss = Counted()
    plan = ds.plan(
        model, images(), at=["1"], head="cnds(width=2, hidden=4)", weight="adaptive()", gradient="warmup(0.5)"
    )
    net = ds.attach(model, plan).eval()
    objective = ds.Objective(plan, loss=loss)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    batch = images(3), labels(3)
    before = torch.get_rng_state(), random.getstate(), objective.state_dict()
    assert saved_bytes(net, objective, batch) == saved_bytes(net, objective, batch)
    after = torch.get_rng_state(), random.getstate(), objective.state_dict()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert loss.calls == 0
    assert not any(m.training for m in net.modules())
    assert not net.progress_known
    assert all(p.grad is None for p in net.parameters())
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_only_a_gpu_has_a_peak() -> None:
    assert peak_bytes(torch.device("cpu"), reset=True) is None
