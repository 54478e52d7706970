"""Traps of the branches: cost, weights over the training, gradient rules, terms that miss them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup import gradients, networks
from tests.support.patients import attached, examined, only
from tests.support.small_nets import CLASSES, Plain, images, mlp


def broken(above: Tensor, branch: Tensor) -> Tensor:
    raise ZeroDivisionError("no length")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda above, branch: None, "returned NoneType"),
        (lambda above, branch: above.sum(), "returned a tensor of shape ()"),
        (lambda above, branch: above * math.nan, "gives NaN"),
        (broken, "its gradient rule custom:broken fails: ZeroDivisionError: no length"),
    ],
)
def test_a_gradient_rule_that_would_stop_the_backward_pass_is_found(rule: gradients.Custom, words: str) -> None:
    found = examined(Plain(), at=["relu2"], gradient=rule)
    assert words in only(found, "gradient-unusable", "branch 'relu2'", "return above + branch").what
    assert words in only(examined(attached(gradient=rule)), "gradient-unusable", "branch 'relu1'").what


def test_a_gradient_rule_that_works_is_called_without_leaving_a_trace() -> None:
    class Counting:
        calls = 0

        def __call__(self, above: Tensor, branch: Tensor) -> Tensor:
            self.calls += 1
            assert above.shape == branch.shape
            return above + torch.rand(()) * branch

    rule = Counting()
    net = attached(gradient=rule)
    before = torch.random.get_rng_state()
    assert not ds.diagnose(net, torch.ones(4, 3, 16, 16))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert rule.calls == 0, "a copy is called"


def test_a_factor_that_turns_the_gradient_round_is_found() -> None:
    rule = gradients.scale(lambda p: 1 - 1.5 * p)
    found = examined(Plain(), at=["relu2"], gradient=rule)
    only(found, "gradient-unusable", "branch 'relu2'", "gradient='scale(0.5)'", severity="warning")
    for harmless in ("scale(0.5)", "warmup(0.2)", "project", "mgda", "detach"):
        assert not examined(Plain(), at=["relu2"], gradient=harmless)


def test_a_factor_that_is_no_number_is_found() -> None:
    found = examined(Plain(), at=["relu2"], gradient=gradients.scale(lambda p: math.inf))
    only(found, "gradient-unusable", "branch 'relu2'", "a finite number for every progress")


@pytest.mark.parametrize("weight", [0, "until(constant(0), 0.5)", lambda progress: 0.0])
def test_a_weight_that_is_zero_throughout_is_found(weight: object) -> None:
    found = examined(Plain(), at=["relu2"], weight=weight)
    only(found, "weight-always-zero", "branch 'relu2'", "weight=0.3", severity="warning")


@pytest.mark.parametrize("weight", [lambda p: 0.3 - p, lambda p: math.nan, lambda p: 1 / (p - 0.5)])
def test_a_weight_that_is_negative_or_no_number_is_found(weight: object) -> None:
    found = examined(Plain(), at=["relu2"], weight=weight)
    only(found, "weight-unusable", "branch 'relu2'", "finite numbers from 0 up")


def test_weights_that_start_or_end_at_zero_are_fine() -> None:
    for weight in ("linear(0.3, 0)", "warmup(constant(0.3), 0.2)", "until(constant(0.3), 0.1)"):
        assert not examined(Plain(), at=["relu2"], weight=weight)


def test_an_objective_with_branches_for_a_model_that_was_never_attached_is_found() -> None:
    model = Plain()
    objective = ds.Objective(ds.plan(model, images(), at=["relu2"]))
    only(examined(model, objective=objective), "loss-without-branch", "branch 'relu2'", "the net was attached with")


def test_branches_and_losses_that_miss_each_other_are_found() -> None:
    net = attached(at=["relu1"])
    other = ds.plan(Plain(), images(), at=["relu2"])
    found = examined(net, objective=ds.Objective(other))
    assert [(f.code, f.where) for f in found] == [
        ("branch-without-loss", "branch 'relu1'"),
        ("loss-without-branch", "branch 'relu2'"),
    ]
    assert all("Objective(net.plan)" in f.fix for f in found)
    only(examined(net, objective=ds.Objective()), "branch-without-loss", "branch 'relu1'", "Objective(net.plan)")
    assert not examined(net, objective=ds.Objective(net.plan))


def test_a_branch_dearer_than_the_model_is_found() -> None:
    found = examined(Plain(), at=["relu1"], head="cnds(hidden=64)")
    only(found, "dear-branch", "branch 'relu1'", "head='pool'", severity="warning")
    assert "parameters to the model's" in found.findings[0].what
    assert not examined(Plain(), at=["relu1"], head="pool")


def test_the_big_heads_that_a_method_brings_are_not_called_dear() -> None:
    net = small_resnet()
    x, y = torch.randn(4, 1, 16, 16), torch.arange(4)
    for method in ("cnds", "cnds-released", "googlenet", "googlenet(bn=True)", "dsl", "dks", "dhm(temperature=2)"):
        plan = ds.plan(net, x, at=["layer2"] if "cnds" in method else None, method=method)
        assert any(b.params > plan.params for b in plan.branches), "there is something to be silent about"
        assert not ds.diagnose(net, x, y, plan=plan)
    peer = "network(name='deepsup:resnet-14')"
    plan = ds.plan(net, x, method="dml", head=peer)
    assert plan.branches[0].params > plan.params
    assert not ds.diagnose(net, x, y, plan=plan)


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("aux", "cnds"),
        ("aux", "continuation(width=3)"),
        ("cnds", "cnds(hidden=2048)"),
        ("cnds", "googlenet"),
        ("dsl", "googlenet"),
        ("dml-of-another-version", "cnds"),
    ],
)
def test_a_big_head_that_the_method_did_not_ask_for_is_dear(method: str, head: str) -> None:
    net = small_resnet()
    x, y = torch.randn(4, 1, 16, 16), torch.arange(4)
    plan = ds.plan(net, x, at=["layer2"], method=method if "-of-" not in method else "aux", head=head)
    found = ds.diagnose(net, x, y, plan=replace(plan, method=method))
    only(found, "dear-branch", "branch 'layer2'", "head='pool'", severity="warning")


def small_resnet() -> nn.Module:
    return networks.build("deepsup:resnet-8", classes=10, in_channels=1, size=16)


def test_a_weight_that_follows_its_loss_is_no_constant_weight() -> None:
    deep = mlp(*[16] * 8, CLASSES)
    x, y = torch.randn(4, 16), torch.arange(4)
    assert not ds.diagnose(deep, x, y, at=["1"], weight="adaptive(0.9)")
    assert not ds.diagnose(deep, x, y, at=["1"], method="adaloss")
    only(ds.diagnose(deep, x, y, at=["1"], weight=1), "early-heavy-branch", "branch '1'", severity="warning")


def test_a_schedule_that_counts_its_calls_is_asked_as_a_copy() -> None:
    class Counting:
        calls = 0

        def __call__(self, progress: float) -> float:
            self.calls += 1
            return 0.3

    weight = Counting()
    net = attached(at=["relu1"], weight=weight)
    assert not examined(net)
    assert not examined(net, objective=ds.Objective(net.plan))
    assert weight.calls == 0


def test_an_early_light_branch_with_a_heavy_constant_weight_is_found() -> None:
    deep = mlp(*[16] * 8, CLASSES)
    x, y = torch.randn(4, 16), torch.arange(4)
    found = ds.diagnose(deep, x, y, at=["1"], weight=0.5)
    only(found, "early-heavy-branch", "branch '1'", "weight='linear(0.3, 0)'", "'cnds'", severity="warning")
    for harmless in ({"weight": 0.4}, {"weight": "linear(1, 0)"}, {"gradient": "scale(0.1)", "weight": 0.5}):
        assert not ds.diagnose(deep, x, y, at=["1"], **harmless)
    assert not ds.diagnose(deep, x, y, at=["9"], weight=0.5)
