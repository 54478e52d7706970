"""What tests of layouts share."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from torch import Tensor

torch.set_num_threads(1)


forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # newer Pythons dislike workers that fork


def equal(left: Iterator[tuple[Tensor, Tensor]], right: Iterator[tuple[Tensor, Tensor]]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return bool(pairs) and all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = b"".join(side.to_bytes(4, "big") for side in array.shape)
    raw = bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_fashion(folder: Path, *, suffix: str = ".gz", labels: int = 12) -> Path:
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("t10k", 5)):
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", random.integers(0, 256, (count, 28, 28)))
        targets = np.arange(labels if part == "train" else count) % 10
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", targets)
    return folder


def write_svhn(folder: Path, *, train: dict[str, Any] | None = None) -> Path:
    """SVHN of 12 + 5 images, in which the digit 0 is called 10, as in the published files."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 12), ("test", 5)):
        digits = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        content = {"X": random.integers(0, 256, (32, 32, 3, count), dtype=np.uint8), "y": digits}
        scipy.io.savemat(folder / f"{part}_32x32.mat", content | (train or {}) if part == "train" else content)
    return folder


class Bomb:
    """Unpickling this writes a file: the tests look whether it was written."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")
