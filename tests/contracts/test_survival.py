"""What a supervised model must survive: copies, pickle, EMA, compile, autocast, checkpointing, exceptions, itself."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import deepsup as ds
from deepsup.errors import AlreadyAttachedError, LayerError, TapError
from deepsup.layers.taps import taps_on
from tests.support.architectures import ARCHITECTURES, Architecture, dropout_head
from tests.support.laws import every_architecture


def supervised(arch: Architecture, model: nn.Module | None = None) -> ds.Supervised:
    model = arch.build() if model is None else model
    return ds.attach(model.train(), ds.plan(model, arch.sample(), at=arch.at))


def step(net: nn.Module, arch: Architecture, plan: ds.Plan) -> ds.Terms:
    terms = ds.Objective(plan)(net(arch.sample()), arch.target())
    terms.total.backward()
    return terms


@every_architecture
def test_deepcopy_pickle_and_ema_after_a_step(arch: Architecture) -> None:
    net = supervised(arch)
    step(net, arch, net.plan)
    ema = AveragedModel(net)
    ema.update_parameters(net)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), ema.module):
        twin.zero_grad()
        step(twin, arch, twin.plan)
        assert all(p.grad is not None for p in twin.heads.parameters())
        assert not net.recorder.seen
        assert twin.recorder is not net.recorder
        model = ds.strip(twin)
        assert not taps_on(model)
    assert len(taps_on(net.model)) == 2  # stripping a copy leaves the original supervised


@every_architecture
def test_compiles_as_one_graph_and_equals_eager(arch: Architecture) -> None:
    torch.compiler.reset()
    net = supervised(arch)
    for module in net.modules():  # random layers draw other numbers when compiled
        if "drop" in type(module).__name__.lower():
            module.eval()
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    found, expected = step(compiled, arch, net.plan), step(twin, arch, twin.plan)
    for name, part in expected.parts.items():
        torch.testing.assert_close(found.parts[name], part, rtol=1e-3, atol=1e-4)
    assert all(p.grad is not None for p in net.heads.parameters())
    compiled.eval()
    with torch.no_grad():
        assert type(compiled(arch.sample())) is not ds.Outputs
    assert ds.strip(compiled) is net.model
    torch.compiler.reset()


@every_architecture
def test_bf16_autocast(arch: Architecture) -> None:
    net = supervised(arch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = ds.Objective(net.plan)(net(arch.sample()), arch.target())
    terms.total.backward()
    assert torch.isfinite(terms.total)
    assert all(p.grad is not None for p in net.heads.parameters())


def test_autocast_inside_the_models_own_forward() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = ARCHITECTURES["plain-12"].build()

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.body(x)

    arch = ARCHITECTURES["plain-12"]._replace(build=Inner, at=["body.conv3", "body.conv9"])
    net = supervised(arch)
    assert step(net, arch, net.plan).parts["body.conv3"].dtype == torch.float32


class Checkpointed(nn.Module):
    """ResNet-18 whose second stage is recomputed in backward."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.body = ARCHITECTURES["resnet"].build()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        b = self.body
        x = b.layer1(b.maxpool(b.relu(b.bn1(b.conv1(x)))))
        x = checkpoint(b.layer2, x, use_reentrant=self.reentrant)
        return b.fc(b.avgpool(b.layer4(b.layer3(x))).flatten(1))


def test_non_reentrant_checkpointing_gives_the_same_gradients() -> None:
    arch = ARCHITECTURES["resnet"]._replace(at=["body.layer2.0", "body.layer3"])
    model = Checkpointed(reentrant=False)
    twin = copy.deepcopy(model)
    net = supervised(arch, model)
    step(net, arch, net.plan)
    twin_arch = arch._replace(at=["layer2.0", "layer3"])
    plain = supervised(twin_arch, twin.body)
    plain.heads.load_state_dict({k.replace("body/", ""): v for k, v in net.heads.state_dict().items()})
    step(plain, twin_arch, plain.plan)
    for (name, p), q in zip(model.body.named_parameters(), twin.body.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_reentrant_checkpointing_over_a_tap_is_refused() -> None:
    arch = ARCHITECTURES["resnet"]
    with pytest.raises(LayerError, match="use_reentrant=False"):
        ds.plan(Checkpointed(reentrant=True), arch.sample(), at="body.layer2.0")
    model = Checkpointed(reentrant=False)
    net = ds.attach(model.train(), ds.plan(model, arch.sample(), at="body.layer2.0"))
    model.reentrant = True  # switched on after planning
    with pytest.raises(TapError, match="use_reentrant=False"):
        net(arch.sample())


class Breaking(nn.Module):
    """Fails in the middle of forward when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Linear(4, 5)
        self.broken = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.broken:
            raise ZeroDivisionError("in the middle")
        return self.second(x.mean((2, 3)))


def test_an_exception_in_forward_leaves_no_live_capture() -> None:
    model = Breaking()
    x = torch.randn(2, 3, 8, 8)
    net = ds.attach(model, ds.plan(model, x, at="first"))
    model.broken = True
    with pytest.raises(ZeroDivisionError):
        net(x)
    assert not net.recorder.armed
    assert not net.recorder.seen
    model.broken = False
    assert set(net(x).aux) == {"first"}
    pickle.loads(pickle.dumps(net))


@every_architecture
def test_attach_twice_is_refused_and_attach_strip_attach_works(arch: Architecture) -> None:
    net = supervised(arch)
    plan = net.plan
    for again in (net.model, net):
        with pytest.raises(AlreadyAttachedError, match="Strip it first"):
            ds.attach(again, plan)
    assert len(taps_on(net.model)) == 2
    second = ds.attach(ds.strip(net), plan)
    step(second, arch, plan)
    assert all(p.grad is not None for p in second.heads.parameters())
    assert len(taps_on(second.model)) == 2


def test_dropout_in_a_head_draws_anew_each_step_and_repeats_after_resume() -> None:
    arch = ARCHITECTURES["plain-12"]
    torch.manual_seed(3)
    model = arch.build().train()
    net = ds.attach(model, ds.plan(model, arch.sample(), at="relu3", head=dropout_head))
    first, second = net(arch.sample()).aux["relu3"], net(arch.sample()).aux["relu3"]
    assert not torch.equal(first, second)
    saved = net.state_dict()
    third = net(arch.sample()).aux["relu3"]
    net.load_state_dict(saved)
    assert torch.equal(net(arch.sample()).aux["relu3"], third)


def test_checkpointing_the_whole_net_repeats_the_heads_dropout() -> None:
    arch = ARCHITECTURES["plain-12"]
    torch.manual_seed(3)
    model = arch.build().train()
    plan = ds.plan(model, arch.sample(), at="relu3", head=dropout_head, weight=1.0)
    net = ds.attach(model, plan)
    twin = copy.deepcopy(net)
    x, y = arch.sample(), arch.target()
    ds.Objective(plan)(checkpoint(net, x, use_reentrant=False), y).total.backward()
    ds.Objective(plan)(twin(x), y).total.backward()
    assert net.calls == twin.calls == 1
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_reentrant_checkpointing_over_a_layer_without_weights_is_refused_too() -> None:
    class Switch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 5)
            self.reentrant = False

        def forward(self, x: Tensor) -> Tensor:
            x = checkpoint(lambda t: self.relu(t * 1.0), self.conv(x), use_reentrant=self.reentrant)
            return self.fc(x.mean((2, 3)))

    model, x = Switch().train(), torch.randn(2, 3, 8, 8)
    net = ds.attach(model, ds.plan(model, x, at="relu"))
    assert net(x).aux["relu"].requires_grad
    model.reentrant = True
    with pytest.raises(TapError, match="use_reentrant=False"):
        net(x)
