"""What of a head is the model's, told by identity."""

from __future__ import annotations

import torch
from torch import nn

from deepsup.heads.lent_layers import lent, place, tried
from tests.support.lending_nets import Tokens


def test_layers_and_tensors_are_told_apart_and_the_outermost_count() -> None:
    model = Tokens()
    tied = nn.Linear(8, 5)
    tied.weight = model.fc.weight
    found = lent(nn.ModuleDict({"new": nn.Linear(8, 8), "blocks": model.blocks, "tied": tied}), model)
    assert found.layers == {"blocks": model.blocks}
    assert found.tensors == {"tied.weight": (model.fc, "weight")}
    assert found.has("blocks")
    assert found.has("blocks.0.linear.weight")
    assert not found.has("blocks2.weight")
    assert [found.touches(path) for path in ("new", "tied", "blocks.0.linear")] == [False, True, True]
    assert lent(model.fc, model).has("weight")
    assert not lent(nn.Linear(8, 5), model).has("weight")
    assert lent(model.fc, None) == ({}, {})


def test_placing_follows_what_is_lent_and_else_the_anchor() -> None:
    model, anchor = Tokens().double(), torch.zeros((), dtype=torch.bfloat16)
    head = nn.Sequential(nn.BatchNorm1d(8), model.fc)
    place(head, lent(head, model), anchor)
    assert head[0].weight.dtype == head[0].running_mean.dtype == model.fc.weight.dtype == torch.float64
    assert head[0].num_batches_tracked.dtype == torch.int64
    new = nn.Linear(2, 2)
    place(new, lent(new, model), anchor)
    assert new.weight.dtype == torch.bfloat16


def test_a_head_is_tried_as_a_copy_beside_the_models_layers() -> None:
    model = Tokens().double()
    head = nn.Sequential(nn.Linear(8, 8), model.fc)
    twin = tried(head, model)
    assert isinstance(twin, nn.Sequential)
    assert twin[1] is model.fc
    assert twin[0].weight.dtype == torch.float64
    assert head[0].weight.dtype == torch.float32
    alone = nn.Linear(8, 5)
    assert tried(alone, model) is alone
    assert tried(head, None) is head
