"""Datasets by name: published file layouts, fixed validation sets, and what is said about damaged files."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from torch import Tensor

from deepsup import datasets
from deepsup.datasets import ArraySplit, FolderSplit
from deepsup.errors import ConfigError, DatasetError, MissingPackageError
from tests.support.tiny_images import write_image, write_pets

torch.set_num_threads(1)

forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # newer Pythons dislike workers that fork


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "pets")


def equal(left: Iterator[tuple[Tensor, Tensor]], right: Iterator[tuple[Tensor, Tensor]]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return bool(pairs) and all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


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


class Bomb:
    """Unpickling this writes a file: the tests look whether it was written."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


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


class TestFolder:
    def test_classes_shapes_and_names(self, image_folder: Path) -> None:
        data = datasets.load("folder", root=image_folder, size=12)
        assert str(data) == "folder: 7 training and 4 validation images, 3x12x12, 2 classes"
        assert data.class_names == ("cat", "dog")
        assert data.train.labels.tolist() == [0] * 4 + [1] * 3
        assert data.validation.labels.tolist() == [1] * 4  # no cats there, and dogs are still 1
        assert datasets.load("folder", root=image_folder, limit=2).train.size == 224

    def test_grey_images_become_three_equal_channels(self, image_folder: Path) -> None:
        x, _ = next(
            datasets.load("folder", root=image_folder, size=12).validation.batches(4, seed=0, epoch=0, shuffle=False)
        )
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = x * std.view(1, 3, 1, 1) + mean.view(1, 3, 1, 1)
        torch.testing.assert_close(pixels[:, 0], pixels[:, 2])
        assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1.0001

    def test_limit_keeps_images_and_labels_together(self, image_folder: Path) -> None:
        split = datasets.load("folder", root=image_folder, size=12, limit=3, seed=4).train
        assert isinstance(split, FolderSplit)
        assert [int("dog" in path.parts) for path in split.paths] == split.labels.tolist()
        assert len(split) == 3

    @forks
    @pytest.mark.parametrize("workers", [0, 1])
    @pytest.mark.parametrize("content", [b"", b"no image at all", "truncated"])
    def test_an_unreadable_image_is_named(self, image_folder: Path, content: bytes | str, workers: int) -> None:
        path = image_folder / "val" / "dog" / "2.JPG"
        path.write_bytes(path.read_bytes()[:300] if isinstance(content, str) else content)
        split = datasets.load("folder", root=image_folder, size=12, workers=workers).validation
        with pytest.raises(DatasetError, match=r"^cannot read the image .*dog/2.JPG: ") as caught:
            list(split.batches(2, seed=0, epoch=0, shuffle=False))
        assert "Traceback" not in str(caught.value)
        assert " object at 0x" not in str(caught.value)
        assert "<_io" not in str(caught.value)

    def test_needs_a_root(self) -> None:
        with pytest.raises(DatasetError, match="needs root="):
            datasets.load("folder")

    def test_root_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"nope/train is not a folder.*found: nothing"):
            datasets.load("folder", root=tmp_path / "nope")

    def test_no_validation_folder(self, image_folder: Path) -> None:
        (image_folder / "val").rename(image_folder / "test")
        with pytest.raises(DatasetError, match=r"val is not a folder.*found: test, train"):
            datasets.load("folder", root=image_folder)

    def test_a_class_that_training_does_not_know(self, image_folder: Path) -> None:
        write_image(image_folder / "val" / "fish" / "0.png", seed=0)
        with pytest.raises(DatasetError, match=r"val has classes that .*train has not: fish"):
            datasets.load("folder", root=image_folder)

    @pytest.mark.parametrize(("part", "message"), [("train", "of: cat"), ("val", "in any class folder")])
    def test_class_folders_without_images(self, image_folder: Path, part: str, message: str) -> None:
        for path in [*(image_folder / part / "cat").glob("*.png"), *(image_folder / part / "dog").glob("*.JPG")]:
            path.unlink()
        with pytest.raises(DatasetError, match=f"{part} has no image file .*{message}"):
            datasets.load("folder", root=image_folder)

    def test_no_class_folders_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "train").mkdir()
        with pytest.raises(DatasetError, match="train has no class folders"):
            datasets.load("folder", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("cifar-10", {}, DatasetError, "Closest: cifar10.*Known: digits, mnist, fashion-mnist"),
        ("digits", {"size": 7}, DatasetError, "size=7 is too small for digits"),
        ("digits", {"limit": 0}, DatasetError, "limit=0 would leave no training image"),
        ("digits", {"classes": 1}, DatasetError, "classes=1 would leave nothing to tell apart"),
        ("digits", {"augment": "standart"}, ConfigError, "no augmentation is called 'standart'. Closest: standard"),
        ("digits", {"augment": "cutout"}, ConfigError, "squares of 16 pixels from images of 16.*length, such as 8"),
        ("folder", {"augment": "reflect"}, ConfigError, "is called 'reflect'.*: none, standard, contrastive"),
        ("digits", {"workers": -1}, ConfigError, "workers=-1"),
    ],
)
def test_bad_requests_say_what_to_do(
    name: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        datasets.load(name, **arguments)


@pytest.mark.parametrize(
    ("name", "package", "label"),
    [
        ("digits", "sklearn", "scikit-learn"),
        ("cifar10", "torchvision", "torchvision"),
        ("mnist", "torchvision", "torchvision"),
        ("svhn", "scipy", "scipy"),
        ("folder", "torchvision", "torchvision"),
    ],
)
def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, label: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf'{label}, which is not installed.*pip install "deepsup\[train\]"'):
        datasets.load(name)
