"""`shared(pool)`: one head for several branches, made, priced, stored and optimised once."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import deepsup as ds
from deepsup.errors import HeadError
from tests.support.lending_nets import Tokens, vectors
from tests.support.small_nets import CLASSES, Residual, images, labels

AT = ["blocks.0", "blocks.1"]


def shared(head: str = "shared(pool)", **options: object) -> ds.Supervised:
    model = Tokens()
    return ds.attach(model, ds.plan(model, vectors(), AT, head=head, **options))


@pytest.mark.parametrize("head", ["shared(pool)", "shared(auto)", " shared( pool ) "])
def test_all_branches_that_say_it_have_one_head(head: str) -> None:
    net = shared(head)
    assert net.heads["blocks.0"] is net.heads["blocks.1"]
    assert [b.head for b in net.plan.branches] == ["shared(pool)"] * 2
    assert [b.params for b in net.plan.branches] == [8 * CLASSES + CLASSES, 0]
    assert net.plan.branches[0].flops == net.plan.branches[1].flops > 0
    assert [k for k in net.state_dict() if k.startswith("heads.")] == [
        "heads.blocks/0.0.weight",
        "heads.blocks/0.0.bias",
    ]
    assert len(list(net.heads.parameters())) == len(list(net.heads.named_parameters(remove_duplicate=False))) == 2
    groups = ds.parameter_groups(net, lr=0.1)
    assert [len(g["params"]) for g in groups] == [len(list(net.model.parameters())), 2]
    outputs = net(vectors())
    ds.Objective(net.plan)(outputs, labels(4)).total.backward()
    assert set(outputs.aux) == set(AT)


def test_its_gradient_is_that_of_both() -> None:
    net, x = shared(), vectors()
    parts = ds.Objective(net.plan)(net(x), labels(4)).parts
    weight = net.heads["blocks.0"][-1].weight
    each = [torch.autograd.grad(parts[name], weight, retain_graph=True)[0] for name in AT]
    both = torch.autograd.grad(parts[AT[0]] + parts[AT[1]], weight)[0]
    assert torch.allclose(both, each[0] + each[1])


def test_it_is_loaded_copied_and_kept_in_files_as_one(tmp_path: Path) -> None:
    net = shared()
    ds.save_weights(net.heads, tmp_path / "heads.safetensors")
    net.plan.save(tmp_path / "plan.json")
    other = ds.attach(Tokens(), ds.Plan.load(tmp_path / "plan.json"))
    ds.load_weights(other.heads, tmp_path / "heads.safetensors")
    for assign in (False, True):
        other.load_state_dict(net.state_dict(), strict=True, assign=assign)
    for found in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert found.heads["blocks.0"] is found.heads["blocks.1"]
        assert torch.equal(found.heads["blocks.1"][-1].weight, net.heads["blocks.1"][-1].weight)
    net.double()
    assert {p.dtype for p in net.parameters()} == {torch.float64}


def test_two_groups_of_branches_share_two_heads_and_zero_starts_both() -> None:
    model = Residual()
    heads = dict.fromkeys(["layer1.0", "layer1.1"], "shared(pool)") | dict.fromkeys(
        ["layer2.0", "layer2.1"], "shared(linear)"
    )
    net = ds.attach(model, ds.plan(model, images(), list(heads), head=heads, zero_heads={"layer1.1": True}))
    assert len({id(head) for _, head in net.heads.items()}) == 2
    assert not net.heads["layer1.0"][-1].weight.any()
    assert net.heads["layer2.1"][-1].weight.any()


def test_other_channels_and_sizes_that_the_head_cannot_read_are_refused_by_name() -> None:
    with pytest.raises(
        HeadError, match=r"'layer1' and 'layer2' would share one head, shared\(pool\), but read 4 channels"
    ):
        ds.plan(Residual(), images(), ["layer1", "layer2"], head="shared(pool)")
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(256, CLASSES)
    )
    with pytest.raises(HeadError, match=r"branch '2' \(shared\(linear\)\) cannot read an activation of 4x8x8"):
        ds.plan(model, images(), ["0", "2"], head="shared(linear)")
    with pytest.raises(HeadError, match="no head is called 'poll'"):
        ds.plan(Tokens(), vectors(), AT, head="shared(poll)")


def test_one_module_for_two_branches_is_refused_with_the_way_to_say_it() -> None:
    model = Tokens()
    with pytest.raises(
        HeadError, match=r"would share one head module\. Name a head that they share, head='shared\(pool\)'"
    ):
        ds.plan(model, vectors(), AT, head=nn.Linear(8, CLASSES))


def test_strip_gives_the_model_back_and_every_exit_works() -> None:
    net = shared().eval()
    model = ds.strip(net)
    assert isinstance(model, Tokens)
    assert all(ds.early_exit(net, name)(vectors()).shape == (4, CLASSES) for name in AT)
