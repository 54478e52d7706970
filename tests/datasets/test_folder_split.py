"""Tests of folder split."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from deepsup import datasets
from deepsup.datasets import FolderSplit
from deepsup.datasets.image_ranges import Ranges
from deepsup.errors import DatasetError
from tests.support.drawn_images import write
from tests.support.published_images import forks
from tests.support.tiny_images import write_image


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

    def test_randaugment_changes_images_by_its_options_and_the_same_again(self, image_folder: Path) -> None:
        def batch(augment: str, epoch: int = 0) -> torch.Tensor:
            split = datasets.load("folder", root=image_folder, size=12, augment=augment).train
            return next(split.batches(7, seed=0, epoch=epoch, shuffle=False))[0]

        one = batch("randaugment(operations=2, magnitude=20)")
        assert torch.equal(batch("randaugment(operations=2, magnitude=20)"), one)
        for other in (batch("standard"), batch("randaugment(operations=1)"), batch("randaugment(magnitude=20)", 1)):
            assert not torch.equal(other, one)

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
        split = datasets.load("folder", root=image_folder, size=12, workers=workers).validation
        path.write_bytes(path.read_bytes()[:300] if isinstance(content, str) else content)
        with pytest.raises(DatasetError, match=r"^cannot read the image .*dog/2.JPG: "):
            datasets.load("folder", root=image_folder)  # before anything is trained, and else when its turn comes
        with pytest.raises(DatasetError, match=r"^cannot read the image .*dog/2.JPG: ") as caught:
            list(split.batches(2, seed=0, epoch=0, shuffle=False))
        assert "Traceback" not in str(caught.value)
        assert " object at 0x" not in str(caught.value)
        assert "<_io" not in str(caught.value)

    def test_sixteen_bits_are_read_by_the_range_of_all_images(self, image_folder: Path) -> None:
        for part, high in (("train", 1000), ("val", 4095)):
            shutil.rmtree(image_folder / part / "dog")
            write(image_folder / part / "dog" / "0.png", np.full((40, 30), high, np.uint16))
        data = datasets.load("folder", root=image_folder, size=12)
        assert isinstance(data.train, FolderSplit)
        assert data.train.ranges == Ranges(whole=4095)
        (x, y), *_ = data.validation.batches(9, seed=0, epoch=0, shuffle=False)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        torch.testing.assert_close(x[y == 1].amax((0, 2, 3)), (1 - mean) / std)

    def test_photographs_are_turned(self, image_folder: Path) -> None:
        pixels = np.zeros((30, 90, 3), np.uint8)
        pixels[:, :45] = 255  # left and white; seen upright it is above
        shutil.rmtree(image_folder / "val" / "dog")
        write(image_folder / "val" / "dog" / "0.png", pixels, orientation=6)
        split = datasets.load("folder", root=image_folder, size=12).validation
        (x, _), *_ = split.batches(1, seed=0, epoch=0, shuffle=False)
        assert (x[0, :, 0] > 0).all()
        assert (x[0, :, -1] < 0).all()

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

    def test_files_that_are_no_images_are_said(self, image_folder: Path) -> None:
        for path in (image_folder / "train" / "cat").glob("*.png"):
            path.rename(path.with_suffix(".heic"))
        with pytest.raises(DatasetError, match=r"of: cat\. Files that are none: 4 \*\.heic, 1 \*\.txt\.$"):
            datasets.load("folder", root=image_folder)

    def test_only_the_users_images_count(self, image_folder: Path) -> None:
        before = datasets.load("folder", root=image_folder, size=12)
        for name in ("._0.png", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/._0.png"):
            write(image_folder / "train/cat" / (name if name.endswith("png") else "x.png"), np.zeros((4, 4), np.uint8))
            (image_folder / "train/cat/x.png").unlink(missing_ok=True)
            (image_folder / "train/cat" / name).write_bytes(b"no image")
        (image_folder / "train" / "__MACOSX").mkdir()
        os.mkfifo(image_folder / "train" / "cat" / "pipe.png")
        (image_folder / "train" / "cat" / "zero.png").symlink_to("/dev/zero")
        (image_folder / "train" / "dog" / "again").symlink_to(image_folder / "train" / "dog" / "more")
        after = datasets.load("folder", root=image_folder, size=12)
        assert isinstance(before.train, FolderSplit)
        assert isinstance(after.train, FolderSplit)
        assert len(after.train) == len(before.train)
        assert after.class_names == before.class_names

    def test_a_link_back_is_refused(self, image_folder: Path) -> None:
        (image_folder / "train" / "cat" / "all").symlink_to(image_folder / "train")
        with pytest.raises(
            DatasetError, match=r"train/cat/all/cat leads through a link back to .*train/cat, which it lies in"
        ):
            datasets.load("folder", root=image_folder)

    def test_a_file_of_two_classes_is_refused(self, image_folder: Path) -> None:
        (image_folder / "train" / "dog" / "x.png").symlink_to(image_folder / "train" / "cat" / "0.png")
        with pytest.raises(
            DatasetError, match=r"cat/0\.png and .*dog/x\.png are one file, through a link, in two classes"
        ):
            datasets.load("folder", root=image_folder)

    def test_a_single_class_is_refused(self, image_folder: Path) -> None:
        for part in ("train", "val"):
            shutil.rmtree(image_folder / part / "dog")
        write(image_folder / "val" / "cat" / "0.png", np.zeros((4, 4), np.uint8))
        with pytest.raises(DatasetError, match=r"train has the class folder 'cat' alone\. With one class"):
            datasets.load("folder", root=image_folder)

    def test_no_class_folders_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "train").mkdir()
        with pytest.raises(DatasetError, match="train has no class folders"):
            datasets.load("folder", root=tmp_path)
