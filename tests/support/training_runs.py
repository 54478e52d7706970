"""What the tests of training share: small nets and batches, runs that stop half-way."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.training.journal import Record
from tests.support.tiny_runs import dropout_net

CPU = {"accelerator": "cpu", "threads": 1}


def supervised(**options: Any) -> ds.Supervised:
    model = dropout_net(10, 1)
    plan = ds.plan(model, torch.randn(2, 1, 16, 16), at=["relu1", "relu2"], head="pool", **options)
    return ds.attach(model, plan)


def blobs(count: int = 64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(count) % 3
    x = torch.randn(count, 4, generator=generator) + 3 * F.one_hot(y, 4)
    return list(zip(x.split(16), y.split(16), strict=True))


def state_bytes(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def same_state(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


class Interrupted(Exception):
    pass


def stop_at(step: int) -> Any:
    def see(record: Record) -> None:
        if record["kind"] == "step" and record["step"] == step:
            raise Interrupted

    return see


class InfiniteAt:
    """A loss that is infinite from its `call`-th call on."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.left -= 1
        return F.cross_entropy(prediction, target) * (math.inf if self.left < 0 else 1.0)


def seven_classes(in_channels: int) -> nn.Module:
    return dropout_net(7, in_channels)


def supervised_net(weight: float = 0.3):
    torch.manual_seed(0)
    model = dropout_net(10, 1)
    return ds.attach(model, ds.plan(model, torch.randn(2, 1, 16, 16), at=["relu1"], head="pool", weight=weight))


def some_batches(epoch: int):
    generator = torch.Generator().manual_seed(epoch)
    yield torch.randn(8, 1, 16, 16, generator=generator), torch.randint(0, 10, (8,), generator=generator)
