"""Checkpointing repeats any of the forwards before it, and each draws again what it drew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import deepsup as ds
from deepsup.supervision.recomputation import call_repeated, note, running_again
from tests.support.small_nets import CLASSES, Plain, images


def dropping(feature: ds.Feature, classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(feature.channels, classes))


def net_of(seed: int = 0) -> ds.Supervised:
    torch.manual_seed(seed)
    model = Plain().train()
    return ds.attach(model, ds.plan(model, images(), ["conv1", "relu2"], head=dropping))


def gradients(run: Callable[[Callable[[Tensor], Any]], Tensor], on: bool) -> list[Tensor]:
    torch.manual_seed(5)
    net = net_of()

    def scores(x: Tensor) -> tuple[Tensor, ...]:
        outputs = net(x)
        return (outputs.main, *outputs.aux.values())

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        return checkpoint(scores, x, use_reentrant=False) if on else scores(x)

    run(forward).backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


def two(forward: Callable[[Tensor], Any]) -> Tensor:
    x = torch.ones(8, 3, 16, 16)
    return sum(t.square().sum() for _ in range(2) for t in forward(x))


def three_and_the_first_alone(forward: Callable[[Tensor], Any]) -> Tensor:
    batches = [torch.full((8, 3, 16, 16), float(i + 1)) for i in range(3)]
    first, *rest = [sum(t.square().sum() for t in forward(x)) for x in batches]
    first.backward()
    return sum(rest)


@pytest.mark.parametrize("run", [two, three_and_the_first_alone])
def test_several_forwards_before_a_backward_have_the_gradients_of_the_plain_net(run: Any) -> None:
    plain, repeated = gradients(run, on=False), gradients(run, on=True)
    assert len(plain) == len(repeated)
    for one, other in zip(plain, repeated, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_two_calls_in_one_checkpoint_are_told_apart() -> None:
    results = []
    for on in (False, True):
        torch.manual_seed(5)
        net, x = net_of(), torch.ones(8, 3, 16, 16)

        def run(x: Tensor, net: ds.Supervised = net) -> Tensor:
            return sum(t.square().sum() for _ in range(2) for t in net(x).aux.values())

        (checkpoint(run, x, use_reentrant=False) if on else run(x)).backward()
        results.append([p.grad for p in net.heads.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(*results, strict=True))


def test_outside_of_a_checkpoint_nothing_is_repeated() -> None:
    net = nn.Linear(2, CLASSES)
    note(net, 3)
    assert running_again() is None
    assert call_repeated(net) is None


def test_a_checkpoint_inside_of_the_model_around_a_tap_reads_each_forward() -> None:
    class Checkpointed(Plain):
        on = False

        def forward(self, x: Tensor) -> Tensor:
            def body(x: Tensor) -> Tensor:
                return self.relu2(self.conv2(self.relu1(self.conv1(x))))

            y = checkpoint(body, x, use_reentrant=False) if self.on else body(x)
            return self.fc(self.pool(y).flatten(1))

    results = []
    for on in (False, True):
        torch.manual_seed(0)
        model = Checkpointed().train()
        net = ds.attach(model, ds.plan(model, images(), ["conv1", "relu1"], head=dropping))
        model.on = on
        outputs = [net(torch.full((4, 3, 16, 16), float(i + 1))) for i in range(3)]
        total = sum(t.square().sum() for o in outputs for t in (o.main, *o.aux.values()))
        total.backward()
        results.append([p.grad for p in net.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(*results, strict=True))
