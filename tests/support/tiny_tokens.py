"""Sequences of tokens in two files, and nets of a few weights that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

LENGTH, SYMBOLS = 8, 6


def drawn(count: int, seed: int, *, length: int = LENGTH, symbols: int = SYMBOLS) -> Any:
    return np.random.default_rng(seed).integers(0, symbols, (count, length))


def save(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    if path.suffix == ".npz":
        np.savez(path, **named)
    else:
        save_file(named, path)
    return path


def write_sums(root: Path, *, train: int = 96, val: int = 24, suffix: str = ".npz", mask: bool = False) -> Path:
    """A token's label is its sum with the one before it, modulo 4; the first has none; some labels are left out."""
    for part, count, seed in (("train", train, 0), ("val", val, 1)):
        inputs = drawn(count, seed)
        labels = (inputs + np.roll(inputs, 1, 1)) % 4
        labels[:, 0] = -100
        arrays = {"inputs": inputs, "labels": labels}
        if mask:
            arrays["mask"] = np.arange(LENGTH)[None] < np.random.default_rng(seed).integers(4, LENGTH + 1, (count, 1))
        save(root / f"{part}{suffix}", **arrays)
    return root


def write_walks(root: Path, *, train: int = 64, val: int = 16) -> Path:
    """Sequences in which each token is the one before it and 1, modulo 6: nothing but what follows is to be learned."""
    for part, count, seed in (("train", train, 0), ("val", val, 1)):
        starts, step = drawn(count, seed, length=1), np.arange(LENGTH)
        save(root / f"{part}.npz", inputs=((starts + step) % SYMBOLS).astype(np.uint8))
    return root


def settings(root: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Of a run on them that learns in seconds."""
    return {
        "name": "tokens",
        "model": "deepsup:transformer-2",
        "model_options": {"width": 16, "heads": 2},
        "data": {"name": "tokens", "root": str(root), "batch_size": 16},
        "optimizer": {"name": "adam", "lr": 0.01},
        "epochs": 8,
        "engine": {"accelerator": "cpu", "threads": 1},
        "output": str(output),
        **changes,
    }


class Convolved(nn.Module):
    """Scores with their classes on axis 1, (N, classes, L)."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(in_channels, 12)
        self.conv1, self.conv2 = nn.Conv1d(12, 24, 3, padding=1), nn.Conv1d(24, num_classes, 3, padding=1)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x).transpose(1, 2)
        return self.conv2(self.drop(torch.relu(self.conv1(x))))  # type: ignore[no-any-return]
