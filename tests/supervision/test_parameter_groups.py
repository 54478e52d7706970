"""Settings of the optimiser for trunk and heads apart."""

from __future__ import annotations

import torch
from torch import nn

import deepsup as ds
from tests.support.small_nets import Plain, images
from tests.support.supervised_nets import supervised


def test_two_groups_with_the_heads_on_their_own_rate() -> None:
    net = supervised()
    model, heads = ds.parameter_groups(net, lr=0.1, weight_decay=1e-4, head_lr_factor=10, head_weight_decay=0.0)
    assert (model["name"], model["lr"], model["weight_decay"]) == ("model", 0.1, 1e-4)
    assert (heads["name"], heads["lr"], heads["weight_decay"]) == ("heads", 1.0, 0.0)
    assert [id(p) for p in model["params"]] == [id(p) for p in net.model.parameters()]
    assert [id(p) for p in heads["params"]] == [id(p) for p in net.heads.parameters()]
    assert [g["weight_decay"] for g in ds.parameter_groups(net, lr=0.1, weight_decay=1e-4)] == [1e-4, 1e-4]
    assert len(torch.optim.SGD(ds.parameter_groups(net, lr=0.1)).param_groups) == 2


def test_frozen_parameters_are_left_out_and_empty_groups_too() -> None:
    net = supervised()
    net.model.conv1.requires_grad_(False)
    assert len(ds.parameter_groups(net, lr=0.1)[0]["params"]) == 4
    net.model.requires_grad_(False)
    assert [g["name"] for g in ds.parameter_groups(net, lr=0.1)] == ["heads"]


def test_a_plain_or_stripped_model_has_one_group() -> None:
    model = Plain()
    for plain in (model, ds.strip(supervised(model)), ds.attach(model, ds.plan(model, images(), method="none"))):
        (group,) = ds.parameter_groups(plain, lr=0.1)
        assert group["name"] == "model"
        assert len(group["params"]) == 6


def test_a_head_that_shares_a_layer_with_the_model_is_optimised_once() -> None:
    model = Plain()
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc)
    net = supervised(model, ["relu2"], head=head)
    groups = ds.parameter_groups(net, lr=0.1)
    assert len([p for g in groups for p in g["params"]]) == 6
    torch.optim.SGD(groups)
