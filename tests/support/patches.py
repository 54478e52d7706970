"""What tests of datasets share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deepsup import datasets
from deepsup.datasets import MapSplit, paired_transforms
from deepsup.datasets.mask_files import VOID, MaskReader
from deepsup.datasets.paired_transforms import Pixels
from deepsup.datasets.pairs import Pair, PairReader, Pairs
from deepsup.datasets.transforms import RANGE
from tests.support.tiny_layouts import SHAPE, blocks, picture

torch.set_num_threads(1)


forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # newer Pythons dislike workers that fork


EPOCH: dict[str, Any] = {"seed": 3, "epoch": 2, "shuffle": True}


FACTOR = 20


def equal(left: Iterator[tuple[Tensor, Tensor]], right: Iterator[tuple[Tensor, Tensor]]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return bool(pairs) and all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def training(root: Path, **options: Any) -> MapSplit:
    split = datasets.load("pairs", root=root, **options).train
    assert isinstance(split, MapSplit)
    return split


def split_of(root: Path, *, memory: int = 2**30, **options: Any) -> MapSplit:
    """Written pairs as a split, kept in memory or read again for every sample."""
    pairs = [Pair(str(n), root / f"train/images/{n}.png", root / f"train/masks/{n}.png") for n in range(3)]
    reader = PairReader(MaskReader({0: 0, 1: 1, 2: 2, 255: VOID}, classes=3))
    half = torch.full((3,), 0.5)
    return MapSplit(
        Pairs(pairs, reader, memory=memory), class_names="abc", palette=[(0, 0, 0)] * 3, mean=half, std=half, **options
    )


def red(x: Tensor, split: MapSplit) -> Tensor:
    """The red channel as bytes again."""
    return ((x[:, 0] * split.std[0] + split.mean[0]) * 255).round()


def pixels_of(seed: int = 0, shape: tuple[int, int] = SHAPE) -> Pixels:
    mask = blocks(seed, shape=shape, side=1, labels=range(3))
    return Pixels(torch.from_numpy(picture(mask)).permute(2, 0, 1), torch.from_numpy(mask))


def drawn(count: int, seed: int = 0) -> list[list[int]]:
    return torch.randint(
        0, RANGE, (count, paired_transforms.DRAWS), generator=torch.Generator().manual_seed(seed)
    ).tolist()
