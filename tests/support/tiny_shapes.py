"""Images with a label a pixel on disk, and a net of a few hundred weights that predicts maps: runs that take a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from deepsup.settings import configs, training
from deepsup.settings.section import merge

SIDE = 32
PALETTE = ((90, 90, 90), (200, 30, 30), (30, 200, 30))


def write_shapes(root: Path, *, train: int = 8, val: int = 3, classes: int = 3) -> Path:
    """Squares on a dark ground, of a class by colour; two rows at the top are void. Returns `root`."""
    draw = np.random.default_rng(0)
    for part, count in {"train": train, "val": val}.items():
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = draw.integers(0, 40, (SIDE, SIDE, 3), dtype=np.uint8)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            for label in range(1, classes):
                top, left = draw.integers(2, SIDE - 14, 2)
                image[top : top + 12, left : left + 12, label - 1] = 220
                mask[top : top + 12, left : left + 12] = label
            mask[:2] = 255
            Image.fromarray(image).save(root / part / "images" / f"{part}{number}.png")
            Image.fromarray(mask).save(root / part / "masks" / f"{part}{number}.png")
    lines = [f"{name} {' '.join(map(str, c))}" for name, c in zip(("ground", "red", "green"), PALETTE, strict=True)]
    (root / "classes.txt").write_text("\n".join(lines[:classes]) + "\n")
    return root


class MapNet(nn.Module):
    """Scores at a quarter of the image's size, from two stages."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(in_channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.score = nn.Conv2d(12, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.score(self.stage2(self.stage1(x)))
        return found


def map_net(num_classes: int, in_channels: int) -> nn.Module:
    """What a configuration names."""
    return MapNet(num_classes, in_channels)


def settings(root: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """The settings of a tiny run on `write_shapes`, with some of them changed."""
    tiny = {
        "name": "maps",
        "model": "tests.support.tiny_shapes:map_net",
        "data": {"name": "pairs", "root": str(root), "batch_size": 4},
        "supervise": {"method": "aux", "at": ["stage1"], "weight": 0.4},
        "optimizer": {"name": "adam", "lr": 0.02},
        "epochs": 2,
        "engine": {"accelerator": "cpu", "threads": 1},
        "output": str(output),
    }
    return merge(tiny, changes)


def config(root: Path, output: Path, **changes: Any) -> training.TrainConfig:
    """The same, checked."""
    found = configs.parse(settings(root, output, **changes))
    assert isinstance(found, training.TrainConfig)
    return found


def batches(count: int = 2, *, classes: int = 3, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Noise with labels, for loops of one's own."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, SIDE, SIDE)
    return [
        (torch.randn(2, 3, SIDE, SIDE, generator=generator), torch.randint(0, classes, shape, generator=generator))
        for _ in range(count)
    ]
