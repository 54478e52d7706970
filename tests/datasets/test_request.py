"""Tests of request."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepsup import datasets
from deepsup.datasets import ArraySplit
from deepsup.errors import DatasetError
from tests.support.published_images import write_svhn
from tests.support.tiny_images import write_image


class TestFewerClasses:
    def test_the_first_ones_are_kept_in_both_splits(self, tmp_path: Path) -> None:
        root = write_svhn(tmp_path)
        few, whole = datasets.load("svhn", root=root, classes=3), datasets.load("svhn", root=root)
        assert isinstance(few.train, ArraySplit)
        assert isinstance(whole.train, ArraySplit)
        assert (few.classes, few.class_names) == (3, ("0", "1", "2"))
        assert few.train.labels.tolist() == [1, 2, 0, 1, 2]
        assert few.validation.labels.tolist() == [1, 2]
        assert torch.equal(few.train.images, whole.train.images[[0, 1, 9, 10, 11]])
        assert torch.equal(few.train.mean, whole.train.mean)  # the pixels mean the same as in the full run

    def test_before_the_limit(self) -> None:
        data = datasets.load("digits", classes=2, limit=50)
        assert len(data.train) == 50
        assert set(data.train.labels.tolist()) == {0, 1}

    def test_of_a_folder(self, image_folder: Path) -> None:
        write_image(image_folder / "train" / "eel" / "0.png", seed=0)
        data = datasets.load("folder", root=image_folder, classes=2, size=12)
        assert data.class_names == ("cat", "dog")
        assert len(data.train) == 7
        assert datasets.load("folder", root=image_folder, size=12).classes == 3

    def test_no_more_than_there_are(self, image_folder: Path) -> None:
        with pytest.raises(DatasetError, match="classes=11, but digits has only 10 classes"):
            datasets.load("digits", classes=11)
        with pytest.raises(DatasetError, match="classes=3, but folder has only 2 classes"):
            datasets.load("folder", root=image_folder, classes=3)
