"""Heads that borrow layers of the model: nothing of the model's is cast, zeroed, switched, counted, stored or moved."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deepsup as ds
from deepsup.errors import HeadError
from deepsup.supervision.branch_heads import Heads
from tests.support.lending_nets import Tokens, of_the_model, vectors, with_the_weight
from tests.support.small_nets import CLASSES, labels

HEADS = pytest.mark.parametrize("head", [of_the_model, with_the_weight], ids=["layers", "a parameter"])


def lending(head: Any = of_the_model, model: Tokens | None = None, **options: Any) -> ds.Supervised:
    model = Tokens() if model is None else model
    return ds.attach(model, ds.plan(model, vectors(), ["blocks.0"], head=head, **options))


def test_what_the_model_lends_is_told_from_what_is_new() -> None:
    net = lending()
    assert [key for key, _ in net.heads.named_parameters()] == ["blocks/0.0.weight", "blocks/0.0.bias"]
    assert list(net.heads.named_buffers()) == []
    assert [key for key, _ in net.heads.own("blocks.0")] == ["0.weight", "0.bias"]
    assert net.heads["blocks.0"][2] is net.model.fc
    assert [key for key, _ in lending(with_the_weight).heads.named_parameters()] == ["blocks/0.bias"]


@pytest.mark.parametrize(("trunk", "last"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_a_lent_layer_keeps_its_precision_and_what_is_new_joins_it(trunk: torch.dtype, last: torch.dtype) -> None:
    model = Tokens().to(trunk)
    model.fc.to(last)
    model.norm.to(last)
    model.register_forward_pre_hook(lambda m, args: args[0].to(trunk))
    model.norm.register_forward_pre_hook(lambda m, args: args[0].to(last))
    net = lending(model=model)
    assert {p.dtype for p in (*model.fc.parameters(), *model.norm.parameters())} == {last}
    assert {p.dtype for p in net.heads.parameters()} == {last}
    ds.Objective(net.plan)(net(vectors()), labels(4)).total.backward()
    assert model.fc.weight.grad.dtype == last


@HEADS
def test_moving_the_heads_leaves_the_models_layers_and_moving_the_net_moves_all(head: Any) -> None:
    net = lending(head)
    net.heads.double()
    assert {p.dtype for p in net.model.parameters()} == {torch.float32}
    assert {p.dtype for p in net.heads.parameters()} == {torch.float64}
    weight = net.model.fc.weight
    net.double()
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert net.model.fc.weight is weight
    assert any(p is weight for p in net.heads["blocks.0"].parameters())
    net(vectors().double())


def test_flags_and_freezing_of_the_heads_are_theirs_alone() -> None:
    model = Tokens().train()
    model.norm.eval()
    net = lending(model=model)
    assert not model.norm.training
    net.heads.eval()
    assert model.fc.training
    assert not net.heads["blocks.0"][0].training
    net.heads.train()
    assert not model.norm.training
    net.heads.requires_grad_(False)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for _, p in net.heads.own("blocks.0"))
    net.heads.requires_grad_()
    ds.Objective(net.plan)(net(vectors()), labels(4)).total.backward()
    net.heads.zero_grad()
    assert model.fc.weight.grad is not None
    net.eval()
    assert not any(m.training for m in net.modules())


def test_a_plan_prices_what_is_new_and_counts_all_that_runs() -> None:
    model = Tokens()
    branch = ds.plan(model, vectors(), ["blocks.0"], head=of_the_model).branches[0]
    assert branch.params == 8 * 8 + 8
    assert branch.flops >= 2 * (8 * 8 + 8 * CLASSES)
    assert ds.plan(model, vectors(), ["blocks.0"], head=model.fc).cost["head_params"] == 0


def test_zero_heads_never_zeroes_the_models_classifier() -> None:
    model = Tokens()
    before = model.fc.weight.clone()
    for head in (of_the_model, with_the_weight, model.fc):
        plan = ds.plan(model, vectors(), ["blocks.0", "blocks.1"], head={"blocks.0": head}, zero_heads=True)
        assert [b.zero for b in plan.branches] == [False, True]
        net = ds.attach(model, plan)
        assert torch.equal(model.fc.weight, before)
        assert not net.heads["blocks.1"][-1].weight.any()
        ds.strip(net)
        with pytest.raises(HeadError, match=r"zero_heads= names branch 'blocks\.0'.*the model's own"):
            ds.plan(model, vectors(), ["blocks.0"], head=head, zero_heads={"blocks.0": True})

    def behind(feature: ds.Feature, classes: int, *, model: Tokens) -> nn.Module:
        return nn.Sequential(model.norm, nn.Linear(feature.channels, classes))

    net = lending(behind, zero_heads=True)
    assert not net.heads["blocks.0"][1].weight.any()
    assert net.model.norm.weight.all()


@HEADS
def test_the_state_holds_everything_once_and_loads_strictly(head: Any, tmp_path: Path) -> None:
    net = lending(head)
    net(vectors())
    state = net.state_dict()
    heads = [key for key in state if key.startswith("heads.")]
    assert heads == [f"heads.{key}" for key, _ in net.heads.named_parameters()]
    ds.save_weights(net.heads, tmp_path / "heads.safetensors")
    ds.save_weights(net.model, tmp_path / "model.safetensors")
    for assign in (False, True):
        other = lending(head)
        other.load_state_dict(copy.deepcopy(state), strict=True, assign=assign)
        assert any(p is other.model.fc.weight for p in other.heads["blocks.0"].parameters())
        for key, value in other.state_dict().items():
            assert torch.equal(value, state[key]), key
    other = lending(head)
    ds.load_weights(other.heads, tmp_path / "heads.safetensors")
    assert not torch.equal(other.model.fc.weight, net.model.fc.weight)
    ds.load_weights(other.model, tmp_path / "model.safetensors")
    x = vectors()
    assert torch.equal(other.eval()(x), net.eval()(x))
    with ds.supervising(net), ds.supervising(other):
        assert torch.equal(other(x).aux["blocks.0"], net(x).aux["blocks.0"])


def test_a_state_that_holds_a_layer_twice_as_older_ones_do_loads_too() -> None:
    net = lending()
    state = net.state_dict() | {f"heads.blocks/0.2.{k}": v.clone() for k, v in net.model.fc.state_dict().items()}
    other = lending()
    other.load_state_dict(state, strict=True)
    assert torch.equal(other.model.fc.weight, net.model.fc.weight)
    with pytest.raises(RuntimeError, match=r"heads\.blocks/0\.0\.weight"):
        other.load_state_dict({k: v for k, v in state.items() if k != "heads.blocks/0.0.weight"}, strict=True)


@HEADS
def test_copies_share_with_the_copied_model(head: Any) -> None:
    net = lending(head)
    for other in (
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        torch.optim.swa_utils.AveragedModel(net).module,
    ):
        assert any(p is other.model.fc.weight for p in other.heads["blocks.0"].parameters())
        assert other.model.fc.weight is not net.model.fc.weight
        assert list(other.state_dict()) == list(net.state_dict())
        other.heads.double()
        assert other.model.fc.weight.dtype == torch.float32


def test_the_running_statistics_of_a_lent_norm_are_the_models() -> None:
    torch.manual_seed(0)
    plain, x = Tokens().train(), vectors(16)
    net = lending(model=copy.deepcopy(plain)).train()
    torch.manual_seed(1)
    plain(x)
    torch.manual_seed(1)
    terms = ds.Objective(net.plan)(net(x), labels(16))
    for key, value in plain.state_dict().items():
        assert torch.equal(value, net.model.state_dict()[key]), key
    terms.total.backward()


@HEADS
def test_a_branch_of_weight_zero_trains_the_model_as_if_it_were_not_there(head: Any) -> None:
    torch.manual_seed(0)
    plain = Tokens().train()
    net = lending(head, model=copy.deepcopy(plain), weight=0.0).train()
    parts = (plain, ds.Objective(None)), (net, ds.Objective(net.plan))
    for module, objective in parts:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        for step in range(3):
            torch.manual_seed(step)
            optimizer.zero_grad()
            objective(module(vectors(8)), labels(8)).total.backward()
            optimizer.step()
    stripped = ds.strip(net)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, stripped.state_dict()[key]), key


def test_the_squared_norm_of_a_bracket_counts_new_weights_alone() -> None:
    net = lending(method="dsn")
    found = net(vectors()).aux["blocks.0/norm"]
    assert torch.equal(found, net.heads["blocks.0"][0].weight.square().sum())


def test_strip_gives_the_model_back_with_a_certificate_and_exits_go_on(tmp_path: Path) -> None:
    net, x = lending().eval(), vectors()
    before = {k: v.clone() for k, v in net.model.state_dict().items()}
    with ds.supervising(net):
        expected = net(x).aux["blocks.0"]
    assert ds.ensemble(net)(x).shape == (4, CLASSES)
    model = ds.strip(net, certificate=tmp_path / "proof.json")
    assert torch.equal(ds.early_exit(net, "blocks.0")(x), expected)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert ds.verify(tmp_path / "proof.json", model)["outputs"] == "identical"


def test_the_doctor_leaves_lent_layers_and_calls_no_head_frozen_that_has_nothing_of_its_own() -> None:
    model = Tokens().double()
    head = nn.Sequential(model.norm, model.fc)
    model.fc.requires_grad_(False)
    model.norm.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    net = ds.attach(model, ds.plan(model, vectors().double(), ["blocks.0"], head=head))
    found = ds.diagnose(net, (vectors().double(), labels(4)))
    assert "frozen-head" not in [f.code for f in found.findings]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("given", [nn.Module, Heads], ids=["no model", "heads alone"])
def test_heads_without_a_model_are_all_new(given: Any) -> None:
    heads = Heads({"a.b": nn.Linear(2, 3), "half": nn.Linear(3, 2)})
    assert list(heads) == ["a.b", "half"]
    assert len(heads) == 2
    assert list(heads.state_dict()) == ["a/b.weight", "a/b.bias", "half.weight", "half.bias"]
    with pytest.raises(TypeError, match="one by one"):
        heads(torch.zeros(1))
