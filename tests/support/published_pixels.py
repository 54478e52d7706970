"""What tests of layouts share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepsup import datasets
from deepsup.datasets import MapSplit

torch.set_num_threads(1)


def maps(name: str, root: Path, **options: Any) -> tuple[MapSplit, MapSplit]:
    data = datasets.load(name, root=root, **options)
    assert isinstance(data.train, MapSplit)
    assert isinstance(data.validation, MapSplit)
    return data.train, data.validation


def as_labels(mask: Any, numbers: dict[int, int]) -> Tensor:
    """Labels by the slow way: one number after the other."""
    labels = torch.full(mask.shape, -100)
    for number, label in numbers.items():
        labels[torch.from_numpy(mask == number)] = label
    return labels


def swapped(mask: Any, numbers: dict[int, int]) -> Any:
    found = mask.copy()
    for old, new in numbers.items():
        found[mask == old] = new
    return found


COLOURS = np.array([[0, 0, 0], [250, 10, 20], [1, 2, 3]], np.uint8)


REAL = Path(os.environ.get("DEEPSUP_DATA", "not set"))
