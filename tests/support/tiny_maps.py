"""A small network that predicts maps, and batches for it: for the methods of segmentation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup.methods import METHODS

CLASSES = 5


class TinySegmenter(nn.Module):
    """An encoder of three stages and a decoder of three levels, named as ours are; `outputs` channels at full size."""

    stages = ("layer1", "layer2", "layer3")
    levels = ("up3", "up2", "up1")

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        self.layer1 = self.block(3, 4)
        self.layer2 = self.block(4, 6)
        self.layer3 = self.block(6, 8)
        self.up3 = self.block(8, 8)
        self.up2 = self.block(8 + 6, 6)
        self.up1 = self.block(6 + 4, 4)
        self.score = nn.Conv2d(4, outputs, 1)

    @staticmethod
    def block(a: int, b: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        one = self.layer1(x)
        two = self.layer2(F.max_pool2d(one, 2))
        three = self.layer3(F.max_pool2d(two, 2))
        up = self.up3(three)
        up = self.up2(torch.cat([F.interpolate(up, scale_factor=2), two], 1))
        up = self.up1(torch.cat([F.interpolate(up, scale_factor=2), one], 1))
        return self.score(up)


class TinySides(TinySegmenter):
    """With side outputs that give scores of one channel, as HED has them."""

    sides = ("side1", "side2", "side3")
    levels = ()

    def __init__(self) -> None:
        super().__init__(1)
        self.side1, self.side2, self.side3 = nn.Conv2d(4, 1, 1), nn.Conv2d(6, 1, 1), nn.Conv2d(8, 1, 1)
        self.fuse = nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.layer1(x)
        two = self.layer2(F.max_pool2d(one, 2))
        three = self.layer3(F.max_pool2d(two, 2))
        sides = [self.side1(one), self.side2(two), self.side3(three)]
        return self.fuse(torch.cat([F.interpolate(s, x.shape[2:], mode="bilinear") for s in sides], 1))


def segmenter(method: str) -> nn.Module:
    """What a method of segmentation is tried on."""
    return TinySides() if method.startswith("hed") else TinySegmenter()


def maps(batch: int = 6, *, method: str = "", seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images and label maps; some places do not count."""
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3, 16, 16, generator=stream)
    y = torch.randint(0, 2 if method.startswith("hed") else CLASSES, (batch, 16, 16), generator=stream)
    return x, torch.where(torch.rand(y.shape, generator=stream) < 0.1, -100, y)


def is_for_maps(method: str) -> bool:
    """Whether a method by this name is one of segmentation."""
    return method in METHODS and METHODS[method].maps
