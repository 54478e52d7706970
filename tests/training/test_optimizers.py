"""Optimisers hold what there is to train."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import deepsup as ds
from deepsup.errors import ConfigError, DeepsupError
from deepsup.settings.training import OptimizerConfig
from deepsup.training.optimizers import build
from tests.support.tiny_runs import dropout_net
from tests.support.training_runs import some_batches, supervised


def test_an_optimiser_made_before_attach_is_refused():
    torch.manual_seed(0)
    model = dropout_net(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    net = ds.attach(model, ds.plan(model, torch.randn(2, 1, 16, 16), at=["relu1"]))
    with pytest.raises(ConfigError, match=r"does not hold 2 parameters of the heads .* Make it after attach"):
        ds.fit(net, some_batches, optimizer=optimizer)


def test_rates_of_branches_and_what_does_not_decay_are_settings() -> None:
    net = supervised()
    asked = {"name": "adamw", "lr": 0.1, "weight_decay": 0.5, "no_decay": True, "head_lr_factor": 2}
    settings = OptimizerConfig(**asked, branch_lr_factors={"relu2": 0.25})
    made = {id(p): (g["lr"], g["weight_decay"]) for g in build(net, settings).param_groups for p in g["params"]}
    assert len(made) == len(list(net.parameters()))
    for name, p in net.named_parameters():
        rate = 0.1 if name.startswith("model.") else 0.025 if name.startswith("heads.relu2.") else 0.2
        assert made[id(p)] == (pytest.approx(rate), 0.0 if p.ndim <= 1 else 0.5)
    for name, message in (("relu3", "no branch.*Closest: relu2.*Branches: relu1, relu2"), ("relu1", "at least 0")):
        with pytest.raises(DeepsupError, match=message):
            build(net, OptimizerConfig(branch_lr_factors={name: -1}))
    with pytest.raises(ConfigError, match="this net has none"):
        build(dropout_net(10, 1), OptimizerConfig(branch_lr_factors={"relu1": 1}))


def test_the_optimiser_of_layer_decay_is_timms() -> None:
    timm = pytest.importorskip("timm")
    from timm.optim import create_optimizer_v2

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=2, num_classes=4)
    ours = build(model, OptimizerConfig(name="adamw", lr=0.1, weight_decay=0.05, no_decay=True, layer_decay=0.5))
    theirs = create_optimizer_v2(model, "adamw", lr=0.1, weight_decay=0.05, layer_decay=0.5)

    def rates(optimizer: Any) -> dict[int, tuple[float, float]]:
        return {
            id(p): (pytest.approx(g["lr"] * g.get("lr_scale", 1)), g["weight_decay"])
            for g in optimizer.param_groups
            for p in g["params"]
        }

    found = {id(p): (g["lr"], g["weight_decay"]) for g in ours.param_groups for p in g["params"]}
    assert found == rates(theirs)
