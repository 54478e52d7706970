"""Nets with a trap in them, for the doctor's tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

import deepsup as ds
from tests.support.small_nets import CLASSES, Plain, images, labels


class Maps(nn.Module):
    """Scores for every pixel of 3x16x16 images, from maps of 8x8."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.up = nn.ConvTranspose2d(8, classes, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.relu(self.down(x)))


class Checkpointed(Plain):
    """The first convolution is run again in backward."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(self.conv1, self.relu1)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.block, x.requires_grad_(), use_reentrant=self.reentrant)
        return self.fc(self.pool(self.relu2(self.conv2(x))).flatten(1))


class SidePath(Plain):
    """A layer whose output nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        self.side(x)
        return self.fc(self.pool(self.relu2(self.conv2(x))).flatten(1))


class Normalised(Plain):
    """Its output went through `last` already."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x))


class OneValue(nn.Module):
    """Batch normalisation of vectors, as after a global pool."""

    def __init__(self, classes: int = CLASSES, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.norm = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.pool(self.conv(x))))


def one_value(num_classes: int, in_channels: int) -> nn.Module:
    """As a configuration names it."""
    return OneValue(num_classes, in_channels)


def attached(model: nn.Module | None = None, at: Any = ("relu1",), **options: Any) -> ds.Supervised:
    model = model or Plain()
    return ds.attach(model, ds.plan(model, images(), at=list(at), **options))


def examined(model: nn.Module, **options: Any) -> ds.Diagnosis:
    with torch.random.fork_rng(devices=[]):
        x = images(4)
    return ds.diagnose(model, x, labels(4), **options)


def only(found: ds.Diagnosis, code: str, where: str, *remedy: str, severity: str = "error") -> ds.Finding:
    """The one finding, which must be this one, at this place, with these words in its remedy."""
    assert [f.code for f in found] == [code], str(found)
    return among(found, code, where, *remedy, severity=severity)


def among(found: ds.Diagnosis, code: str, where: str, *remedy: str, severity: str = "error") -> ds.Finding:
    """The same, with others beside it."""
    there = [f for f in found if f.code == code and f.where == where]
    assert len(there) == 1, str(found)
    assert there[0].severity == severity
    for words in remedy:
        assert words in there[0].fix, there[0].fix
    return there[0]


@contextmanager
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def map_labels(*small: int) -> Tensor:
    """Labels 0 and 1 in halves, and one pixel of each class in `small`, where shrinking to 8x8 drops it."""
    target = torch.zeros(2, 16, 16, dtype=torch.long)
    target[:, :, 8:] = 1
    for i, label in enumerate(small):
        target[:, 1 + 2 * i, 1] = label
    return target


class PoolsItself(nn.Module):
    """As models of transformers do: `inner` hands out its hidden map, and also pools it for the prediction."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.conv(x).relu()
            return hidden, hidden.mean((2, 3))

    def __init__(self) -> None:
        super().__init__()
        self.inner = PoolsItself.Inner()
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden, pooled = self.inner(x)
        return self.fc(pooled + hidden.amax((2, 3)))
