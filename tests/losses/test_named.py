"""Losses by name: what is found, what a text may give, and what a new one takes."""

from __future__ import annotations

from typing import Annotated

import pytest
import torch
from torch import Tensor

import deepsup as ds
from deepsup import losses
from deepsup.errors import ConfigError, HeadError
from deepsup.losses import named
from deepsup.settings.training import SuperviseConfig
from deepsup.specs import at_least
from tests.support.small_nets import Plain, images, labels


@pytest.fixture
def _focal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss as a new file of the room would have it, taken back afterwards."""
    monkeypatch.setattr(named.LOSSES, "_known", dict(named.LOSSES._known))
    monkeypatch.setattr(named, "_READ", dict(named._READ))

    @named.loss()
    def focal(prediction: Tensor, target: Tensor, *, gamma: Annotated[float, at_least(0)] = 2.0) -> Tensor:
        own = prediction.log_softmax(1).gather(1, target[:, None])
        return -((1 - own.exp()) ** gamma * own).mean()


@pytest.mark.usefixtures("_focal")
def test_a_new_loss_is_one_function() -> None:
    loss = losses.get("focal(gamma=2)")
    assert losses.show(loss) == "focal(gamma=2)"
    assert losses.describe("focal") == losses.Kind()
    with pytest.raises(ConfigError, match="loss 'focal' needs gamma to be a number of at least 0; found -1"):
        losses.get("focal(gamma=-1)")
    with pytest.raises(ConfigError, match=r"no loss is called 'focl'\. Closest: focal\."):
        losses.get("focl")
    assert SuperviseConfig(at=["conv2"], loss="focal(gamma=1)").loss == "focal(gamma=1)"


@pytest.mark.usefixtures("_focal")
def test_plans_and_objectives_take_a_new_loss() -> None:
    plan = ds.plan(Plain(), images(), at="conv1", loss="focal(gamma=2)", main_loss="focal")
    assert "focal(gamma=2)" in str(plan)
    assert ds.Plan.from_dict(plan.to_dict()) == plan
    net = ds.attach(Plain(), plan)
    with ds.supervising(net):
        total = ds.Objective(plan)(net(images()), labels(), progress=0).total
    total.backward()
    assert 0 < total.item() < 100


def test_a_name_that_is_taken_is_refused() -> None:
    def kl(prediction: Tensor, target: Tensor) -> Tensor:
        return prediction.sum()

    with pytest.raises(ValueError, match="two are registered as loss 'kl'"):
        named.loss()(kl)
    assert losses.LOSSES["kl"] is losses.kl


def test_scores_of_several_channels_are_not_for_a_loss_of_one() -> None:
    losses.check_channels("balanced", 1)
    losses.check_channels("binary", 3)
    with pytest.raises(
        HeadError, match=r"loss 'balanced' tells two classes apart by one score a place.* has 3 channels"
    ):
        losses.check_channels("balanced(ignore_index=255)", 3)


def test_what_a_loss_reads_can_be_asked_in_a_compiled_graph() -> None:
    torch.compiler.reset()
    compiled = torch.compile(lambda s: losses.probabilities(s, "binary"), backend="eager", fullgraph=True)
    scores = torch.randn(2, 3)
    assert torch.equal(compiled(scores), scores.sigmoid())
