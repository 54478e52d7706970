"""What tests of datasets share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from deepsup.datasets import ArraySplit, Split

torch.set_num_threads(1)


forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # newer Pythons dislike workers that fork


def numbered(count: int, *, side: int = 8, augment: str = "none") -> ArraySplit:
    """Images whose label is their index, so that a batch tells which samples it holds."""
    pixels = torch.arange(count * side * side, dtype=torch.float32).view(count, 1, side, side)
    return ArraySplit(pixels, torch.arange(count), class_names=[str(i) for i in range(count)], augment=augment)


def equal(left: Iterator[tuple[Tensor, Tensor]], right: Iterator[tuple[Tensor, Tensor]]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return bool(pairs) and all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def indices(split: Split, batch_size: int, **arguments: Any) -> list[list[int]]:
    return [y.tolist() for _, y in split.batches(batch_size, **{"seed": 0, "epoch": 0, "shuffle": True} | arguments)]


def flat(lists: list[list[Any]]) -> list[Any]:
    return [item for inner in lists for item in inner]
