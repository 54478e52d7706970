"""Tests of published files."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from deepsup import datasets
from deepsup.datasets import ArraySplit
from deepsup.errors import DatasetError
from tests.support.published_images import Bomb, write_fashion


class TestFashion:
    @pytest.mark.parametrize("suffix", [".gz", ""])
    @pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
    def test_flat_or_torchvision_layout_zipped_or_not(self, tmp_path: Path, below: str, suffix: str) -> None:
        write_fashion(tmp_path / below, suffix=suffix)
        data = datasets.load("fashion-mnist", root=tmp_path)
        assert (len(data.train), len(data.validation), data.size, data.channels) == (12, 5, 28, 1)
        assert data.class_names[9] == "Ankle boot"
        assert data.train.labels.tolist() == [i % 10 for i in range(12)]

    def test_pixels_are_what_torchvision_reads(self, tmp_path: Path) -> None:
        write_fashion(tmp_path / "FashionMNIST" / "raw", suffix="")
        split = datasets.load("fashion-mnist", root=tmp_path).train
        assert isinstance(split, ArraySplit)
        reference = torchvision.datasets.FashionMNIST(str(tmp_path))
        assert torch.equal(split.images[:, 0], reference.data)
        assert torch.equal(split.labels, reference.targets)

    def test_missing_says_where_it_looked(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"FashionMNIST/raw or .*Missing: train-images.*download=True"):
            datasets.load("fashion-mnist", root=tmp_path)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda raw: raw[:-200], "train-images-idx3-ubyte.gz is damaged"),
            (lambda raw: b"<html>not found</html>", "train-images-idx3-ubyte.gz is damaged"),
            (lambda raw: gzip.compress(gzip.decompress(raw)[:-1]), "promises 12x28x28 bytes, 9407 follow"),
            (lambda raw: gzip.compress(b"\0\0\x0d\3" + gzip.decompress(raw)[4:]), "starts with 00000d03"),
            (lambda raw: gzip.compress(b""), "starts with nothing"),
            (lambda raw: gzip.compress(b"\0\0\x08\3" + bytes(12)), "is empty: its header says 0x0x0"),
        ],
    )
    def test_damaged_files_are_named(self, tmp_path: Path, damage: Any, message: str) -> None:
        path = write_fashion(tmp_path) / "train-images-idx3-ubyte.gz"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(DatasetError, match=message):
            datasets.load("fashion-mnist", root=tmp_path)

    def test_images_and_labels_must_pair_up(self, tmp_path: Path) -> None:
        write_fashion(tmp_path, labels=11)
        with pytest.raises(DatasetError, match=r"images-idx3-ubyte.gz has 12 images, .* has 11 labels"):
            datasets.load("fashion-mnist", root=tmp_path)

    def test_download_fetches_what_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fetch(self: Any) -> None:
            write_fashion(Path(self.raw_folder), suffix="")

        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", fetch)
        assert len(datasets.load("fashion-mnist", root=tmp_path, download=True).train) == 12

    def test_a_failed_download_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: Any) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", fail)
        with pytest.raises(DatasetError, match=r"could not be downloaded to .*no route to host"):
            datasets.load("fashion-mnist", root=tmp_path, download=True)


class TestCifar:
    @pytest.mark.parametrize("below", ["", "cifar-100-python"])
    def test_reads_what_torchvision_reads(self, tiny_cifar100: Path, below: str) -> None:
        data = datasets.load("cifar100", root=tiny_cifar100 / below)
        assert str(data) == "cifar100: 20 training and 6 validation images, 3x32x32, 4 classes"
        assert data.class_names == ("apple", "bee", "can", "dog")
        assert isinstance(data.train, ArraySplit)
        reference = torchvision.datasets.CIFAR100(str(tiny_cifar100))
        assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), reference.data)
        assert data.train.labels.tolist() == reference.targets

    @pytest.mark.parametrize("name", ["train", "test", "meta"])
    def test_a_file_that_is_not_the_published_one_is_never_opened(self, tiny_cifar100: Path, name: str) -> None:
        trap = tiny_cifar100 / "trap"
        (tiny_cifar100 / "cifar-100-python" / name).write_bytes(pickle.dumps(Bomb(trap)))
        with pytest.raises(DatasetError, match=f"cifar-100-python/{name} is not the published file: its MD5 is"):
            datasets.load("cifar100", root=tiny_cifar100)
        assert not trap.exists()

    def test_a_truncated_file_is_named(self, tiny_cifar100: Path) -> None:
        path = tiny_cifar100 / "cifar-100-python" / "test"
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(DatasetError, match=r"test is not the published file.*get it again"):
            datasets.load("cifar100", root=tiny_cifar100)

    def test_ten_classes_come_in_six_files(self, tmp_path: Path) -> None:
        with pytest.raises(
            DatasetError, match=r"cifar-10-batches-py. Missing: data_batch_1, .*test_batch, batches.meta"
        ):
            datasets.load("cifar10", root=tmp_path)

    def test_download_keeps_good_files(self, tiny_cifar100: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", "http://nowhere.invalid/")
        assert len(datasets.load("cifar100", root=tiny_cifar100, download=True).train) == 20
