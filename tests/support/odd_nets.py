"""Networks that do what most do not: run a layer twice or never, return tuples and dicts, take two inputs, share a weight."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.small_nets import CLASSES


class Branchy(nn.Module):
    """A side path, a layer that never runs, a layer that runs twice, and one behind a detach."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 8)
        self.side = nn.Linear(8, 8)
        self.never = nn.Linear(8, 8)
        self.twice = nn.Linear(8, 8)
        self.cut = nn.Linear(8, 8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        self.side(x)
        x = self.twice(self.twice(x))
        with torch.no_grad():
            y = self.cut(x)
        return self.fc(x + y)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, CLASSES), nn.Linear(4, CLASSES)

    def forward(self, left: Tensor, right: Tensor, *, scale: float = 1.0) -> Tensor:
        return (self.a(left) + self.b(right)) * scale


class Returning(nn.Module):
    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(3, 8), nn.Linear(8, CLASSES)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return self.wrap(self.fc(x), x)


class Telling(nn.Module):
    """Hands on a tuple of the hidden state and something else."""

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        return x * 1.0, {"deep": x.mean((2, 3)), "note": "text", "states": (x,)}


def telling() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.block, self.fc = nn.Conv2d(3, 4, 3), Telling(), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.block(self.conv(x))[1]["deep"])

    return Net()


class Queries(nn.Module):
    """Learned queries, a position embedding and a mask beside the image, as detection transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.mask = nn.MaxPool2d(4)
        self.positions = nn.Conv2d(1, 8, 1)
        self.queries = nn.Linear(4, 8)
        self.mix = nn.Linear(8, 8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y * self.mask((x.detach()[:, :1] > -9).float()) + self.positions(torch.ones(len(x), 1, *y.shape[2:]))
        queries = self.queries(torch.ones(len(x), 4))
        return self.fc(self.mix(y.mean((2, 3)) + queries))


class Tied(nn.Module):
    """A language model's classifier: the transposed embedding, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 4)
        self.fc = nn.Linear(4, CLASSES, bias=False)
        self.fc.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.embed(x).mean(1))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class Scripted(nn.Module):
    """A part of it is compiled to TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            self.inner = torch.jit.script(Inner())
        self.conv, self.last, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.inner(self.conv(x))).mean((2, 3)))


class Dropping(nn.Module):
    """Skips each of its blocks by chance in training, as LayerDrop does; `skipped` says which it skipped last."""

    def __init__(self, share: float = 0.5, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(blocks))
        self.fc = nn.Linear(8, CLASSES)
        self.share = share
        self.skipped: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        self.skipped = []
        for i, block in enumerate(self.blocks):
            if self.training and random.random() < self.share:
                self.skipped.append(i)
            else:
                x = x + block(x)
        return self.fc(x)


def dropping_on_images(num_classes: int, in_channels: int, size: int) -> nn.Module:
    """The same on images, a row of pixels each."""
    net = Dropping()
    net.stem, net.fc = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * size**2, 8)), nn.Linear(8, num_classes)
    return net
