"""The laws of deepsup, each on every architecture: no trace, strip, zero, gradient, eval."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup.features import tensors_in
from deepsup.layers.taps import taps_on
from tests.support.architectures import ARCHITECTURES, CLASSES, Architecture, dropout_head
from tests.support.laws import assert_same_state, every_architecture, mixed_flags, state_of, train


@every_architecture
def test_planning_leaves_no_trace(arch: Architecture) -> None:
    model = arch.build()
    mixed_flags(model)
    before = state_of(model)
    plan = ds.plan(model, arch.sample(), at=arch.at)
    assert_same_state(before, state_of(model))
    assert len(plan.branches) == 2
    assert tuple(b.feature.layout for b in plan.branches) == arch.layouts


@every_architecture
def test_strip_returns_the_very_model(arch: Architecture) -> None:
    model = arch.build()
    mixed_flags(model)
    before, x = state_of(model), arch.sample()
    net = ds.attach(model, ds.plan(model, x, at=arch.at))
    stripped = ds.strip(net)
    assert stripped is model
    assert_same_state(before, state_of(model))
    assert not taps_on(model)


@every_architecture
def test_a_stripped_model_answers_as_before_and_its_certificate_verifies(arch: Architecture, tmp_path: Any) -> None:
    model = arch.build().eval()
    x = arch.sample(batch=2)
    with torch.no_grad():
        before = tensors_in(model(x))
    net = ds.attach(model, ds.plan(model, x, at=arch.at))
    ds.strip(net, certificate=tmp_path / "certificate.json")
    with torch.no_grad():
        after = tensors_in(model(x))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    untouched = arch.build().eval()
    ds.save_weights(model, tmp_path / "model.safetensors")
    ds.load_weights(untouched, tmp_path / "model.safetensors")
    assert ds.verify(tmp_path / "certificate.json", untouched)["outputs"] == "identical"


def assert_zero_law(arch: Architecture, memory_format: torch.memory_format = torch.contiguous_format) -> None:
    torch.manual_seed(1)
    plain = arch.build().train().to(memory_format=memory_format)
    model = copy.deepcopy(plain)
    plan = ds.plan(model, arch.sample(), at=arch.at, head=dropout_head, weight=0.0)

    torch.manual_seed(2)
    train(plain, ds.Objective(ds.plan(plain, arch.sample(), method="none")), arch)
    random_after = torch.get_rng_state()

    torch.manual_seed(2)
    net = ds.attach(model, plan)
    train(net, ds.Objective(plan), arch)

    assert torch.equal(random_after, torch.get_rng_state())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    for name, parameter in net.heads.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@every_architecture
def test_training_with_zero_weights_is_training_the_plain_model_bit_for_bit(arch: Architecture) -> None:
    assert_zero_law(arch)


@pytest.mark.parametrize("name", ["resnet", "convnext", "efficientnet"])
def test_the_zero_law_holds_in_channels_last(name: str) -> None:
    assert_zero_law(ARCHITECTURES[name], torch.channels_last)


@every_architecture
def test_the_gradient_of_the_total_is_the_weighted_sum_of_the_parts(arch: Architecture) -> None:
    model = arch.build().double().train()
    for module in model.modules():  # dropout and stochastic depth would draw differently in each forward
        if "drop" in type(module).__name__.lower():
            module.eval()
    x = arch.sample().double()
    plan = ds.plan(
        model,
        x,
        at=arch.at,
        weight={arch_branch: w for arch_branch, w in zip(_names(model, arch), (0.3, 0.7), strict=True)},
    )
    net, objective = ds.attach(model, plan), ds.Objective(plan)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(which: str) -> list[Tensor]:
        terms = objective(net(x), arch.target())
        value = terms.total if which == "total" else terms.parts[which]
        grads = torch.autograd.grad(value, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]

    weights = objective(net(x), arch.target()).weights
    assert sorted(weights.values()) == [0.3, 0.7, 1.0]
    parts = {name: gradient(name) for name in weights}
    for i, total in enumerate(gradient("total")):
        expected = sum(weights[name] * parts[name][i] for name in weights)
        torch.testing.assert_close(total, expected, rtol=1e-7, atol=1e-9)


def _names(model: nn.Module, arch: Architecture) -> tuple[str, ...]:
    return ds.plan(model, arch.sample().to(next(model.parameters()).dtype), at=arch.at).names


@every_architecture
def test_eval_is_the_plain_model_and_runs_no_head(arch: Architecture) -> None:
    plain = arch.build().eval()
    model = copy.deepcopy(plain)
    x = arch.sample()

    def must_not_run(feature: ds.Feature, classes: int) -> nn.Module:
        head = dropout_head(feature, classes)
        head.register_forward_pre_hook(lambda *_: pytest.fail("a head ran in eval mode") if not head.training else None)
        return head

    net = ds.attach(model, ds.plan(model, x, at=arch.at, head=must_not_run))
    net.train()
    with torch.no_grad():
        assert set(net(x).aux) == set(net.plan.names)
    model.load_state_dict(plain.state_dict())
    net.eval()
    with torch.no_grad():
        expected, found = plain(x), net(x)
    assert type(found) is type(expected)
    expected, found = tensors_in(expected), tensors_in(found)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_every_branch_trains_its_layers() -> None:
    arch = ARCHITECTURES["resnet"]
    model = arch.build()
    plan = ds.plan(model, arch.sample(), at=["layer2"], weight=1.0)
    net = ds.attach(model, plan)
    terms = ds.Objective(plan)(net(arch.sample()), arch.target())
    terms.parts["layer2"].backward()
    assert model.layer1[0].conv1.weight.grad.abs().sum() > 0
    assert model.layer3[0].conv1.weight.grad is None
    assert terms.parts["layer2"].item() == pytest.approx(torch.log(torch.tensor(float(CLASSES))).item(), rel=0.5)
