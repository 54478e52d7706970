"""Fixtures of the tests of this room."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision

from deepsup import datasets
from deepsup.datasets import MapSplit, Split
from tests.support.augmented_splits import (
    AUGMENTED,
    bytes_split,
)
from tests.support.numbered_splits import numbered
from tests.support.patches import training
from tests.support.tiny_images import write_pets
from tests.support.tiny_layouts import write_pairs


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "pets")


@pytest.fixture(params=["array", "folder"])
def augmented(request: pytest.FixtureRequest, image_folder: Path) -> Split:
    if request.param == "array":
        return numbered(11, augment="standard")
    return datasets.load("folder", root=image_folder, size=10, augment="standard").train


@pytest.fixture
def tiny_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CIFAR-100 of 20 + 6 images, with torchvision's table of checksums made to agree."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    random = np.random.default_rng(0)
    sums = {}
    for name, count in (("train", 20), ("test", 6)):
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        entry = {"data": pixels, "fine_labels": [i % 4 for i in range(count)], "coarse_labels": [0] * count}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "bee", "can", "dog"]}))
    for path in folder.iterdir():
        sums[path.name] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    source = torchvision.datasets.CIFAR100
    monkeypatch.setattr(source, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(source, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(source, "meta", {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]})
    return tmp_path


@pytest.fixture(params=[*AUGMENTED, "folder/standard", "folder/contrastive"])
def pairs(request: pytest.FixtureRequest, tmp_path: Path) -> Split:
    """A split that serves two views, 11 or 7 images."""
    kind, _, augment = request.param.rpartition("/")
    if kind == "folder":
        root = write_pets(tmp_path / "pets")
        return datasets.load("folder", root=root, size=10, augment=augment, views=2).train
    return bytes_split(augment=augment, views=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pairs(tmp_path)


@pytest.fixture(params=["none", "flips", "standard"])
def split(request: pytest.FixtureRequest, root: Path) -> MapSplit:
    return training(root, crop=9, patches=4, augment=request.param)
