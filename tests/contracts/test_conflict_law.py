"""The conflict meter on every architecture: equal to one backward a loss, and without influence on training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import deepsup as ds
from deepsup.features import picked
from tests.support.architectures import ARCHITECTURES, Architecture, dropout_head
from tests.support.laws import every_architecture, train


def doubled(arch: Architecture) -> nn.Module:
    """In double precision, nothing random in it."""
    torch.manual_seed(3)
    model = arch.build().double().train()
    for module in model.modules():
        if "drop" in type(module).__name__.lower():
            module.eval()
    return model


@every_architecture
def test_the_meter_is_one_backward_a_loss(arch: Architecture) -> None:
    model, x, y = doubled(arch), arch.sample().double(), arch.target()
    plan = ds.plan(model, x, at=arch.at, weight=0.4)
    torch.manual_seed(4)
    net = ds.attach(model, plan)
    held: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(b.layer).register_forward_hook(
            lambda m, a, out, b=b: held.__setitem__(b.name, picked(out, b.pick)), prepend=True
        )
        for b in plan.branches
        if not b.clone  # what is overwritten in place is no longer the activation that was read
    ]
    objective = ds.Objective(plan)
    slow = objective(net(x), y)
    for handle in handles:
        handle.remove()
    with ds.ConflictMeter(net) as meter:
        objective(net(x), y).total.backward()
        meter.step()
        found = meter.read()
    assert held
    for i, name in enumerate(plan.names):
        if name in held:
            over = sum(slow.weights[n] * slow.parts[n] for n in ("main", *plan.names[i + 1 :]))
            (above,) = torch.autograd.grad(over, held[name], retain_graph=True)
            (branch,) = torch.autograd.grad(slow.weights[name] * slow.parts[name], held[name], retain_graph=True)
            if not above.any():  # a classifier that starts at zero sends nothing down yet
                assert found[name].cosine is None
                continue
            cosine = F.cosine_similarity(above.flatten(), branch.flatten(), dim=0).item()
            assert found[name].cosine == pytest.approx(cosine, abs=1e-5)
            assert found[name].ratio == pytest.approx((branch.norm() / above.norm()).item(), rel=1e-4)


@every_architecture
def test_the_zero_law_holds_while_the_meter_runs(arch: Architecture) -> None:
    torch.manual_seed(1)
    plain = arch.build().train()
    model = copy.deepcopy(plain)
    torch.manual_seed(2)
    train(plain, ds.Objective(ds.plan(plain, arch.sample(), method="none")), arch)
    torch.manual_seed(2)
    plan = ds.plan(model, arch.sample(), at=arch.at, head=dropout_head, weight=0.0)
    net = ds.attach(model, plan)
    with ds.ConflictMeter(net):
        train(net, ds.Objective(plan), arch)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("name", ["resnet", "convnext"])
@pytest.mark.parametrize("rule", ["project", "pcgrad", "mgda", "detach"])
def test_rules_that_leave_a_lone_gradient_alone_keep_the_zero_law(name: str, rule: str) -> None:
    arch = ARCHITECTURES[name]
    torch.manual_seed(1)
    plain = arch.build().train()
    model = copy.deepcopy(plain)
    train(plain, ds.Objective(ds.plan(plain, arch.sample(), method="none")), arch)
    plan = ds.plan(model, arch.sample(), at=arch.at, weight=0.0, gradient=rule)
    train(ds.attach(model, plan), ds.Objective(plan), arch)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_the_meter_sees_through_channels_last_and_autocast() -> None:
    arch = ARCHITECTURES["resnet"]
    torch.manual_seed(1)
    model = arch.build().train()
    plan = ds.plan(model, arch.sample(), at=arch.at)
    net, objective = ds.attach(model, plan), ds.Objective(plan)
    with ds.ConflictMeter(net) as meter:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            for autocast in (False, True):
                net.to(memory_format=memory_format)
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    terms = objective(net(arch.sample().to(memory_format=memory_format)), arch.target())
                terms.total.backward()
                meter.step()
        found = meter.steps()
    for name in plan.names:
        first, *others = (c.cosine for c in found[name])
        assert first == pytest.approx(others[1], abs=1e-3)  # channels last
        assert all(o == pytest.approx(first, abs=0.1) for o in others)  # bfloat16 has two digits


class Checkpointed(nn.Module):
    """A ResNet whose stages are recomputed in backward, one by one."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.body = ARCHITECTURES["resnet"].build()
        self.on = on

    def forward(self, x: Tensor) -> Tensor:
        b = self.body
        x = b.maxpool(b.relu(b.bn1(b.conv1(x))))
        for stage in (b.layer1, b.layer2, b.layer3, b.layer4):
            x = checkpoint(stage, x, use_reentrant=False) if self.on else stage(x)
        return b.fc(b.avgpool(x).flatten(1))


@pytest.mark.parametrize("layer", ["body.layer2", "body.layer2.0"])  # the stage that is recomputed, and inside it
def test_rules_and_meter_survive_checkpointing(layer: str) -> None:
    arch = ARCHITECTURES["resnet"]
    gradients, cosines = [], []
    for on in (False, True):
        torch.manual_seed(1)
        model = Checkpointed(on).train()
        plan = ds.plan(model, arch.sample(), at=[layer], gradient="warmup(0.5)")
        net = ds.attach(model, plan)
        net.set_progress(0.25)
        with ds.ConflictMeter(net) as meter:
            ds.Objective(plan)(net(arch.sample()), arch.target(), progress=0.25).total.backward()
            meter.step()
            cosines.append(meter.read()[layer].cosine)
        gradients.append([p.grad for p in net.parameters()])
    assert cosines[0] == cosines[1] is not None
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
