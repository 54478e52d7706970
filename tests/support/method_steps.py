"""A method's step by hand: a supervised net, and copies of its parts to compute the same with torch's functions alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.layers.taps import remove_taps
from tests.support.tiny_maps import maps, segmenter

CLASSES = 4


def stage(width: int, out: int, stride: int) -> nn.Sequential:
    def block(width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())

    return nn.Sequential(block(width, stride), block(out, 1))


class Three(nn.Module):
    """Three stages of two blocks on 3x16x16 images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = stage(3, 4, 1), stage(4, 6, 2), stage(6, 8, 2)
        self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.pool(self.layer3(self.layer2(self.layer1(x))))))


class Case:
    """A supervised net in double precision and, beside it, copies of the same parts for the step by hand."""

    def __init__(self, method: str, at: Any = None, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = Three().double()
        plan = ds.plan(self.model, torch.randn(2, 3, 16, 16).double(), at, method=method, **options)
        self.plan = plan
        self.net = ds.attach(self.model, plan)
        for module in self.net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.trunk = copy.deepcopy(self.model)
        remove_taps(self.trunk)
        self.heads = {name: copy.deepcopy(head) for name, head in self.net.heads.items()}
        self.objective = ds.Objective(plan)
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(6, 3, 16, 16, generator=generator).double()
        self.y = torch.tensor([0, 1, 2, 0, 1, 2])

    def activations(self) -> dict[str, Tensor]:
        a = self.trunk.layer1(self.x)
        b = self.trunk.layer2(a)
        c = self.trunk.layer3(b)
        return {"<input>": self.x, "layer1": a, "layer2": b, "layer3": c, "main": self.trunk.fc(c.mean((2, 3)))}

    def check(
        self, by_hand: Callable[[dict[str, Tensor], dict[str, Any], Tensor], Tensor], progress: float = 0.5
    ) -> None:
        """The same loss and the same gradients of every parameter."""
        total = self.objective(self.net(self.x), self.y, progress=progress).total
        total.backward()
        seen = self.activations()
        layer = {b.name: b.layer for b in self.plan.branches}
        expected = by_hand(seen, {name: head(seen[layer[name]]) for name, head in self.heads.items()}, self.y)
        expected.backward()
        assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
        pairs = [(self.model, self.trunk), *((self.net.heads[n], self.heads[n]) for n in self.heads)]
        for ours, theirs in pairs:
            for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                assert (p.grad is None) == (q.grad is None), name
                if p.grad is not None:
                    assert torch.allclose(p.grad, q.grad, rtol=1e-8, atol=1e-12), name


def kl(student: Tensor, teacher: Tensor, t: float = 1.0) -> Tensor:
    p = (teacher.detach() / t).softmax(1)
    return (p * (p.log() - (student / t).log_softmax(1))).sum(1).mean()


def hinge(s: Tensor, y: Tensor) -> Tensor:
    """DSN, multiclass: the sum over wrong classes of [1 - (s_y - s_k)]+ squared, sample by sample."""
    total = s.new_zeros(())
    for row, label in zip(s, y.tolist(), strict=True):
        for k in range(CLASSES):
            if k != label:
                total = total + (1 - (row[label] - row[k])).clamp_min(0) ** 2
    return total / len(s)


def one_vs_rest(s: Tensor, y: Tensor) -> Tensor:
    signs = 2 * F.one_hot(y, CLASSES).to(s) - 1
    return ((1 - signs * s).clamp_min(0) ** 2).sum(1).mean()


ce = F.cross_entropy


class Step:
    """A supervised net in double precision, and copies of its parts for the step by hand."""

    def __init__(self, method: str, **options: Any) -> None:
        torch.manual_seed(0)
        name = method.partition("(")[0]
        self.model = segmenter(name).double()
        x, self.y = maps(method=name)
        self.x = x.double()
        self.plan = ds.plan(self.model, self.x, method=method, **options)
        self.net = ds.attach(self.model, self.plan)
        for module in self.net.modules():
            if isinstance(module, nn.Dropout2d):
                module.p = 0.0
        self.trunk = copy.deepcopy(self.model)
        remove_taps(self.trunk)
        self.heads = {name: copy.deepcopy(head) for name, head in self.net.heads.items()}
        self.objective = ds.Objective(self.plan)

    def check(self, by_hand: Callable[[dict[str, Tensor], Tensor], Tensor]) -> None:
        total = self.objective(self.net(self.x), self.y).total
        total.backward()
        seen: dict[str, Tensor] = {}
        for branch in self.plan.branches:
            layer = self.trunk.get_submodule(branch.layer)
            layer.register_forward_hook(lambda m, a, out, name=branch.name: seen.update({name: out}))
        main = self.trunk(self.x)
        outputs = {"main": main, **{name: self.heads[name](a) for name, a in seen.items()}}
        expected = by_hand(outputs, self.y)
        expected.backward()
        assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
        pairs = [(self.model, self.trunk), *((self.net.heads[n], head) for n, head in self.heads.items())]
        for ours, theirs in pairs:
            for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                assert (p.grad is None) == (q.grad is None), key  # a decoder that side outputs pass by has none
                assert p.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-7, atol=1e-11), key
