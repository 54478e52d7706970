"""A branch of weight 0 is as good as none: for the total, for the trunk, and for what has no gradient at all."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup.errors import BranchNameError, TapError
from deepsup.supervision.idle_branches import idle
from tests.support.odd_nets import Dropping
from tests.support.small_nets import CLASSES, Plain, images, labels

WEIGHTS = pytest.mark.parametrize(
    "weight", [0.0, "until(1, 0.5)", lambda progress: torch.tensor(float(progress < 0.5))]
)


class Cut(Plain):
    """Nothing goes down past conv1 but what a branch sends."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        return self.fc(self.pool(self.relu2(self.conv2(x.detach()))).flatten(1))


class Broken(nn.Module):
    """A head that gives what is no number, and would send that down."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.linear = nn.Linear(8, CLASSES)
        with torch.no_grad():
            self.linear.weight.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))


def broken(value: float) -> Callable[..., nn.Module]:
    return lambda feature, classes: Broken(value)


def step(net: nn.Module, objective: ds.Objective, x: Tensor) -> Any:
    terms = objective(net(x), labels(4), progress=0.75)
    terms.total.backward()
    return terms


@WEIGHTS
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_out_of_the_sum_and_the_head_gets_zeros(weight: Any, value: float) -> None:
    plain, x = Plain().train(), images(4)
    model = copy.deepcopy(plain)
    plan = ds.plan(model, x, ["conv1"], head=broken(value), weight=weight)
    net = ds.attach(model, plan).train()
    expected, terms = step(plain, ds.Objective(None), x), step(net, ds.Objective(plan), x)
    assert not terms.parts["conv1"].isfinite()
    assert torch.equal(terms.total, expected.total)
    for (name, one), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name
    assert all(p.grad is not None and not p.grad.any() for p in net.heads.parameters())


@WEIGHTS
@pytest.mark.parametrize("gradient", ["add", "scale(0.5)", "project", "detach"])
def test_what_has_no_gradient_in_the_plain_model_has_none(weight: Any, gradient: str) -> None:
    plain, x = Cut().train(), images(4)
    plain.conv2.bias.requires_grad_(False)
    model = copy.deepcopy(plain)
    plan = ds.plan(model, x, ["conv1"], weight=weight, gradient=gradient)
    net = ds.attach(model, plan).train()
    for module, objective in ((plain, ds.Objective(None)), (net, ds.Objective(plan))):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.1)
        step(module, objective, x)
        optimizer.step()
    assert model.conv1.weight.grad is None
    assert all(p.grad is not None for p in net.heads.parameters())
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("rule", ["detach", "scale(0)", "warmup(0.5)"])
def test_a_rule_that_sends_nothing_down_sends_no_zeros_and_no_number_that_is_none(rule: str) -> None:
    for kind, has in ((Cut, False), (Plain, True)):
        model, x = kind().train(), images(4)
        plain = copy.deepcopy(model)
        net = ds.attach(model, ds.plan(model, x, ["conv1"], head=broken(1e38), gradient=rule, weight=1.0)).train()
        net.set_progress(0.0)
        terms = ds.Objective(net.plan)(net(x), labels(4), progress=0.0)
        terms.parts["main"].backward(retain_graph=True)
        terms.parts["conv1"].backward()
        step(plain, ds.Objective(None), x)
        assert (model.conv1.weight.grad is not None) is has
        if has:
            assert torch.equal(model.conv1.weight.grad, plain.conv1.weight.grad)


def test_other_terms_of_the_branch_go_on() -> None:
    model, x = Plain().train(), images(4)
    plan = replace(ds.plan(model, x, ["conv1"], weight=0.0), edges=(ds.Edge("conv1", "main", loss="kl"),))
    net = ds.attach(model, plan).train()
    assert idle(plan, None) == frozenset()
    terms = step(net, ds.Objective(plan), x)
    assert any(p.grad.any() for p in net.heads.parameters())
    assert float(terms.weights["conv1"]) == 0


def test_which_branches_are_idle_is_known_by_weight_and_progress() -> None:
    model, x = Plain(), images(4)
    plan = ds.plan(
        model, x, {"a": "conv1", "b": "relu1", "c": "relu2"}, weight={"a": 0.0, "b": "until(1, 0.5)", "c": 1.0}
    )
    assert idle(plan, None) == {"a"}
    assert idle(plan, 0.25) == {"a"}
    assert idle(plan, 0.75) == {"a", "b"}
    net = ds.attach(model, plan)
    net.set_progress(0.75)
    assert net.idle == {"a", "b"}


@pytest.mark.parametrize("whole", [False, True], ids=["the net", "net and objective"])
@pytest.mark.parametrize("weight", [0.0, "until(1, 0.5)"])
def test_compiled_without_a_break_it_is_the_same(whole: bool, weight: Any) -> None:
    torch._dynamo.reset()
    plain, x = Plain().train(), images(4)
    model = copy.deepcopy(plain)
    plan = ds.plan(model, x, ["conv1"], head=broken(float("nan")), weight=weight)
    net, objective = ds.attach(model, plan).train(), ds.Objective(plan)
    net.set_progress(0.75)
    objective(net(x), labels(4), progress=0.75)  # labels are looked at once, outside of the graph

    def run(x: Tensor) -> Any:
        return objective(net(x), labels(4), progress=0.75).total

    compiled = torch.compile(run if whole else net, backend="aot_eager", fullgraph=True)
    total = compiled(x) if whole else objective(compiled(x), labels(4), progress=0.75).total
    total.backward()
    expected = step(plain, ds.Objective(None), x)
    assert torch.allclose(total, expected.total)
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)
    assert all(p.grad is not None and not p.grad.any() for p in net.heads.parameters())


def test_scoring_and_frozen_heads_are_left_as_they_are() -> None:
    model, x = Plain().train(), images(4)
    net = ds.attach(model, ds.plan(model, x, ["conv1"], weight=0.0)).train()
    with torch.no_grad():
        assert not net(x).aux["conv1"].requires_grad
    net.heads.requires_grad_(False)
    step(net, ds.Objective(net.plan), x)
    assert all(p.grad is None for p in net.heads.parameters())


def dropping(optional: Any) -> ds.Supervised:
    torch.manual_seed(0)
    model = Dropping().train()
    plan = ds.plan(model, torch.randn(2, 3), {"early": "blocks.0", "late": "blocks.2"}, optional=optional)
    return ds.attach(model, plan)


def test_a_branch_whose_layer_is_skipped_is_left_out_of_that_step_and_its_head_gets_zeros() -> None:
    net, seen = dropping(True), set()
    objective = ds.Objective(ds.Plan.from_dict(net.plan.to_dict()))
    for seed in range(24):
        random.seed(seed)
        net.zero_grad()
        terms = objective(net(torch.randn(4, 3)), labels(4))
        terms.total.backward()
        gone = {name for name, block in (("early", 0), ("late", 2)) if block in net.model.skipped}
        assert terms.parts.keys() == {"main", "early", "late"} - gone
        summed = sum(float(terms.weights[name]) * part.detach() for name, part in terms.parts.items())
        assert torch.allclose(terms.total, torch.as_tensor(summed))
        for name in ("early", "late"):
            for p in net.heads[name].parameters():
                assert p.grad is not None
                assert p.grad.any() == (name not in gone)
        seen.add(frozenset(gone))
    assert len(seen) == 4
    net.eval()
    assert ds.ensemble(net)(torch.randn(4, 3)).shape == ds.early_exit(net, "late")(torch.randn(4, 3)).shape


def test_without_it_the_error_says_how_and_optional_may_be_said_by_name() -> None:
    net = dropping({"early": True})
    net.model.share = 1.0
    with pytest.raises(TapError, match=r"branch 'late' on layer 'blocks\.2' did not fire.*optional=\{'late': True\}"):
        net(torch.randn(4, 3))
    with pytest.raises(BranchNameError, match="optional= names branch 'middle'"):
        dropping({"middle": True})
    assert [b.optional for b in dropping({"early": True}).plan.branches] == [True, False]


def test_terms_between_outputs_and_the_ensemble_do_without_what_was_skipped() -> None:
    net = dropping(True)
    edges = (ds.Edge("early", "late", loss="kl"), ds.Edge("main", "ensemble", loss="kl"))
    plan = replace(net.plan, edges=edges)
    net.plan, objective = plan, ds.Objective(plan)
    for seed in range(24):
        random.seed(seed)
        terms = objective(net(torch.randn(4, 3)), labels(4))
        terms.total.backward()
        assert ("early<-late" in terms.parts) == (not {0, 2} & set(net.model.skipped))
        assert terms.total.isfinite()
