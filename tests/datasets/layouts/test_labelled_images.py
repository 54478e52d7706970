"""Datasets by name: published file layouts, fixed validation sets, and what is said about damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from deepsup import datasets
from deepsup.datasets import ArraySplit
from deepsup.errors import DatasetError
from tests.support.published_images import equal, write_fashion, write_svhn


class TestDigits:
    def test_shape_and_standardisation(self) -> None:
        data = datasets.load("digits")
        assert str(data) == "digits: 1437 training and 360 validation images, 1x16x16, 10 classes"
        assert (data.classes, data.channels, data.size, data.class_names[3]) == (10, 1, 16, "3")
        x, _ = next(data.train.batches(1437, seed=0, epoch=0, shuffle=True))
        assert abs(float(x.mean())) < 1e-5
        assert abs(float(x.std()) - 1) < 1e-3

    def test_every_seed_sees_the_same_validation_set(self) -> None:
        first, second = (datasets.load("digits", seed=seed, limit=100) for seed in (0, 1))
        arguments: dict[str, Any] = {"seed": 0, "epoch": 0, "shuffle": False}
        assert equal(first.validation.batches(90, **arguments), second.validation.batches(90, **arguments))
        assert not equal(first.train.batches(90, **arguments), second.train.batches(90, **arguments))
        assert (len(first.train), len(first.validation)) == (100, 360)

    def test_a_smaller_limit_keeps_a_part_of_the_larger(self) -> None:
        small, large = (datasets.load("digits", limit=limit).train for limit in (50, 200))
        assert torch.equal(small.labels, large.labels[:50])
        assert len(datasets.load("digits", limit=10**6).train) == 1437

    def test_only_the_training_split_is_augmented(self) -> None:
        data = datasets.load("digits", augment="standard")
        assert (data.train.augment, data.validation.augment) == ("standard", "none")
        assert repr(data.train) == "ArraySplit(1437 images 1x16x16, 10 classes, augment='standard')"


class TestMnist:
    @pytest.mark.parametrize("below", ["", "MNIST/raw"])
    def test_pixels_are_what_torchvision_reads(self, tmp_path: Path, below: str) -> None:
        write_fashion(tmp_path / below, suffix="")
        data = datasets.load("mnist", root=tmp_path)
        assert str(data) == "mnist: 12 training and 5 validation images, 1x28x28, 10 classes"
        assert data.class_names[7] == "7 - seven"
        if below:
            reference = torchvision.datasets.MNIST(str(tmp_path), train=False)
            assert isinstance(data.validation, ArraySplit)
            assert torch.equal(data.validation.images[:, 0], reference.data)
            assert torch.equal(data.validation.labels, reference.targets)

    def test_is_not_taken_for_its_twin(self, tmp_path: Path) -> None:
        write_fashion(tmp_path / "FashionMNIST" / "raw")
        with pytest.raises(DatasetError, match=r"mnist is not complete in .*MNIST/raw or .*Missing: train-images"):
            datasets.load("mnist", root=tmp_path)

    def test_download_fetches_what_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fetch(self: Any) -> None:
            write_fashion(Path(self.raw_folder), suffix="")

        monkeypatch.setattr(torchvision.datasets.MNIST, "download", fetch)
        assert len(datasets.load("mnist", root=tmp_path, download=True).train) == 12


class TestSvhn:
    def test_reads_what_torchvision_reads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = datasets.load("svhn", root=write_svhn(tmp_path))
        assert str(data) == "svhn: 12 training and 5 validation images, 3x32x32, 10 classes"
        monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
        reference = torchvision.datasets.SVHN(str(tmp_path))
        assert isinstance(data.train, ArraySplit)
        assert np.array_equal(data.train.images.numpy(), reference.data)
        assert data.train.labels.tolist() == reference.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]

    def test_download_fetches_each_part_that_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fetched = []

        def fetch(self: Any) -> None:
            fetched.append(self.split)
            write_svhn(tmp_path / self.split)
            (tmp_path / self.split / self.filename).rename(tmp_path / self.filename)

        monkeypatch.setattr(torchvision.datasets.SVHN, "download", fetch)
        monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
        write_svhn(tmp_path)
        (tmp_path / "test_32x32.mat").unlink()
        assert len(datasets.load("svhn", root=tmp_path, download=True).validation) == 5
        assert fetched == ["test"]

    def test_missing_says_where_it_looked(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"svhn is not complete.*Missing: train_32x32.mat, test_32x32.mat"):
            datasets.load("svhn", root=tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"X": np.zeros((28, 28, 3, 12), np.uint8)}, r"shape \(28, 28, 3, 12\), not bytes of 32x32x3xN"),
            ({"X": np.zeros((32, 32, 3, 12))}, r"holds torch.float64 images"),
            ({"y": np.ones((7, 1), np.uint8)}, "has 7 labels for 12 images"),
            ({"y": np.full((12, 1), 11, np.uint8)}, "one each, from 1 to 10"),
        ],
    )
    def test_what_is_not_svhn_is_refused(self, tmp_path: Path, content: dict[str, Any], message: str) -> None:
        with pytest.raises(DatasetError, match=message):
            datasets.load("svhn", root=write_svhn(tmp_path, train=content))

    @pytest.mark.parametrize("keep", [0, 100, 2000])
    def test_a_truncated_file_is_named(self, tmp_path: Path, keep: int) -> None:
        path = write_svhn(tmp_path) / "test_32x32.mat"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DatasetError, match=r"test_32x32.mat is damaged .*Delete it and get it again"):
            datasets.load("svhn", root=tmp_path)
