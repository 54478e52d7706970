"""Data sets with a label a pixel: layouts, what masks mean, batches, and what is said about files that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepsup import datasets
from deepsup.datasets import MapSplit
from deepsup.errors import ConfigError, DatasetError
from tests.support.published_pixels import REAL, as_labels, maps
from tests.support.tiny_layouts import (
    blocks,
    disc,
    save,
    write_ade20k,
    write_camvid,
    write_cityscapes,
    write_drive,
    write_pairs,
)


class TestCamVid:
    @pytest.mark.parametrize(("below", "ending"), [("", ".png"), ("CamVid", ".jpg")])
    def test_layout_and_labels(self, tmp_path: Path, below: str, ending: str) -> None:
        write_camvid(tmp_path / below, ending=ending)
        data = datasets.load("camvid", root=tmp_path)
        assert str(data) == "camvid: 4 training and 2 validation images, 3x24x32, 11 classes"
        assert (data.task, data.class_names[0], data.class_names[10]) == ("segmentation", "Sky", "Bicyclist")
        train, validation = data.train, data.validation
        assert isinstance(train, MapSplit)
        assert isinstance(validation, MapSplit)
        assert train.names == ("seq_0", "seq_1", "seq_2", "seq_3")
        for split, first in ((train, 0), (validation, 10)):
            for index in range(split.n_images):
                expected = as_labels(blocks(index + first, labels=range(12)), {label: label for label in range(11)})
                assert torch.equal(split.item(index)[1], expected)
                assert set(split.item(index)[1].unique().tolist()) == {-100, *range(11)}

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        write_camvid(tmp_path)
        (tmp_path / "valannot").rename(tmp_path / "labels")
        with pytest.raises(
            DatasetError, match=rf"^camvid is not complete in {tmp_path} or .*CamVid. Missing: valannot. Pass"
        ):
            datasets.load("camvid", root=tmp_path)

    def test_a_label_beyond_the_classes(self, tmp_path: Path) -> None:
        mask = blocks(0, labels=range(12))
        mask[3, 5] = 12
        save(write_camvid(tmp_path) / "valannot" / "seq_1.png", mask)
        with pytest.raises(DatasetError, match=r"valannot/seq_1.png holds 12 \(row 3, column 5\).*0 to 10, void is 11"):
            datasets.load("camvid", root=tmp_path)


class TestDrive:
    def test_outside_the_view_nothing_counts(self, tmp_path: Path) -> None:
        train, validation = maps("drive", write_drive(tmp_path))
        assert (train.class_names, train.names) == (("background", "vessel"), ("21_training", "22_training"))
        for split, first in ((train, 21), (validation, 1)):
            for index in range(2):
                expected = torch.zeros(40, 36, dtype=torch.int64)
                expected[:, (first + index) % 5 :: 6] = 1
                expected[~torch.from_numpy(disc((40, 36), 12))] = -100
                assert torch.equal(split.item(index)[1], expected)

    def test_the_second_observer_scores_the_test_images(self, tmp_path: Path) -> None:
        root = write_drive(tmp_path)
        (first_train, first), (second_train, second) = (maps(name, root) for name in ("drive", "drive(observer=2)"))
        assert torch.equal(first_train.item(0)[1], second_train.item(0)[1])
        seen = first.item(0)[1] >= 0
        assert torch.equal(second.item(0)[1] >= 0, seen)
        rolled = torch.zeros(40, 36, dtype=torch.int64)
        rolled[:, 2::6] = 1
        assert torch.equal(second.item(0)[1][seen], rolled[seen])

    @pytest.mark.parametrize("augment", ["none", "flips"])
    def test_the_centre_of_every_patch_is_in_view(self, tmp_path: Path, augment: str) -> None:
        train, _ = maps("drive", write_drive(tmp_path), crop=15, patches=150, augment=augment)
        x, y = next(train.batches(300, seed=0, epoch=0, shuffle=False))
        assert x.shape == (300, 3, 15, 15)
        assert bool((y[:, 7, 7] >= 0).all())
        assert bool((y == -100).any())
        if augment == "none":  # every place that is allowed comes with the same chance: 441 centres, 150 draws an image
            view = torch.from_numpy(disc((40, 36), 12))[7:33, 7:29]
            assert len({tuple(image.flatten().tolist()) for image in x[:150]}) > 0.75 * 150
            assert int(view.sum()) > 300

    def test_scaled_patches_are_centred_in_view_too(self, tmp_path: Path) -> None:
        train, _ = maps("drive", write_drive(tmp_path, radius=3), crop=9, patches=60, augment="standard(blur=0)")
        _, y = next(train.batches(120, seed=0, epoch=0, shuffle=False))
        assert bool((y[:, 3:6, 3:6] >= 0).flatten(1).any(1).all())

    def test_an_empty_view_is_named(self, tmp_path: Path) -> None:
        path = save(write_drive(tmp_path) / "test" / "mask" / "02_test_mask.gif", np.zeros((40, 36), np.uint8))
        with pytest.raises(
            DatasetError, match=f"^the field of view {path} is empty: no pixel of 02_test.tif would count"
        ):
            datasets.load("drive", root=tmp_path)

    def test_a_view_without_room_for_a_patch(self, tmp_path: Path) -> None:
        view = np.zeros((40, 36), np.uint8)
        view[0, 0] = 255
        save(write_drive(tmp_path) / "training" / "mask" / "21_training_mask.gif", view)
        train, _ = maps("drive", tmp_path, crop=8)
        with pytest.raises(
            DatasetError, match=r"no patch of 8x8 within .*21_training.tif has its centre in the field of view"
        ):
            list(train.batches(2, seed=0, epoch=0, shuffle=False))

    def test_drawings_are_black_and_white(self, tmp_path: Path) -> None:
        grey = np.zeros((40, 36), np.uint8)
        grey[2, 3] = 100
        path = save(write_drive(tmp_path) / "training" / "1st_manual" / "22_manual1.gif", grey)
        with pytest.raises(
            DatasetError, match=f"the mask {path} should be black and white, and has 1 pixels.*such as 100"
        ):
            datasets.load("drive", root=tmp_path)

    def test_a_drawing_that_is_missing(self, tmp_path: Path) -> None:
        (write_drive(tmp_path) / "training" / "mask" / "22_training_mask.gif").unlink()
        with pytest.raises(
            DatasetError, match=r"images/22_training.tif has no field of view: looked for '22' among the 1"
        ):
            datasets.load("drive", root=tmp_path)


@pytest.mark.filterwarnings("ignore::deepsup.datasets.AbsentClassWarning")  # a few of 150 classes
class TestAde20k:
    def test_zero_is_void_and_the_rest_moves_down(self, tmp_path: Path) -> None:
        train, validation = maps("ade20k", write_ade20k(tmp_path / "ADEChallengeData2016").parent)
        assert (train.classes, train.class_names[0], train.class_names[149]) == (150, "thing 1", "thing 150")
        expected = as_labels(blocks(0, labels=(0, 1, 75, 150)), {1: 0, 75: 74, 150: 149})
        assert torch.equal(validation.item(0)[1], expected)
        assert len(set(train.palette)) == 150

    def test_numbers_where_names_are_missing(self, tmp_path: Path) -> None:
        train, _ = maps("ade20k", write_ade20k(tmp_path, names=False))
        assert train.class_names[:2] == ("1", "2")

    def test_a_table_of_names_that_is_cut_off(self, tmp_path: Path) -> None:
        (write_ade20k(tmp_path) / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")
        with pytest.raises(DatasetError, match=r"objectInfo150.txt names 1 classes, not 150"):
            datasets.load("ade20k", root=tmp_path)


@pytest.mark.filterwarnings("ignore::deepsup.datasets.AbsentClassWarning")
class TestCityscapes:
    @pytest.mark.parametrize("kinds", [["labelIds"], ["labelTrainIds"], ["labelIds", "labelTrainIds"]])
    def test_nineteen_classes_whatever_the_numbers(self, tmp_path: Path, kinds: list[str]) -> None:
        train, validation = maps("cityscapes", write_cityscapes(tmp_path, kinds=kinds))
        assert (train.n_images, validation.n_images, train.classes) == (2, 1, 19)
        assert (train.class_names[13], train.palette[13]) == ("car", (0, 0, 142))
        assert train.names[0] == "aachen_000000_000019_leftImg8bit"
        expected = as_labels(blocks(6, labels=(0, 7, 26, 33, 5)), {7: 0, 26: 13, 33: 18})
        assert torch.equal(train.item(0)[1], expected)

    def test_an_image_without_its_labels(self, tmp_path: Path) -> None:
        next(write_cityscapes(tmp_path).glob("gtFine/train/ulm/*labelIds.png")).unlink()
        with pytest.raises(DatasetError, match=r"ulm_000000_000019_leftImg8bit.png has no mask: looked for 'ulm/ulm_"):
            datasets.load("cityscapes", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("camvd", {}, DatasetError, "no dataset is called 'camvd'. Closest: camvid.*Known: digits.*pairs"),
        (
            "drive(observers=2)",
            {},
            ConfigError,
            "'drive' has no option 'observers'. Options: observer. Closest: observer",
        ),
        ("drive(observer=3)", {}, ConfigError, "'drive' needs observer to be 1 or 2; found 3"),
        (
            "pairs(void=-1)",
            {},
            ConfigError,
            "'pairs' needs void to be the number in the masks that does not count, or None; found -1",
        ),
        ("camvid", {"size": 4}, DatasetError, "size=4 is too small for camvid"),
        ("camvid", {"size": [100, 4]}, DatasetError, r"size=\[100, 4\] is too small"),
        ("camvid", {"size": [1, 2, 3]}, ConfigError, r"size=\[1, 2, 3\] must be one whole number, or two"),
        ("camvid", {"crop": 0}, ConfigError, r"crop=\[0, 0\] must be at least 1 pixel"),
        ("camvid", {"patches": 2}, ConfigError, "patches=2 needs crop="),
        ("camvid", {"patches": 0, "crop": 8}, ConfigError, "patches=0 must be at least 1"),
        ("camvid", {"augment": "cutout"}, ConfigError, "called 'cutout'.*Augmentations: none, standard, flips"),
        (
            "camvid",
            {"augment": "flips"},
            ConfigError,
            r"square ones. Set crop to one number, or use flips\(turns=False\)",
        ),
        ("camvid", {"augment": "standard(scale=2)"}, ConfigError, r"scale to be two numbers .* such as \(0.5, 2.0\)"),
        ("camvid", {"augment": "standard(scale=(2, 1))"}, ConfigError, "the smaller first"),
        ("camvid", {"augment": "standard(rotate=200)"}, ConfigError, "rotate to be degrees from 0 to 180; found 200"),
        ("camvid", {"augment": "standard(blur=2)"}, ConfigError, "blur to be a share from 0 to 1"),
        ("camvid", {"augment": "flips(turns=1)"}, ConfigError, "turns to be True or False"),
        ("camvid", {"prepare": "vesels"}, ConfigError, "no preparation is called 'vesels'. Closest: vessels"),
        ("camvid", {"views": 2, "augment": "standard"}, ConfigError, "views=2: camvid has a label a pixel"),
        ("camvid", {"classes": 3}, ConfigError, "classes=3: the images of camvid show all classes"),
        ("digits", {"crop": 8, "prepare": "vessels"}, ConfigError, "crop, prepare: not for digits.*camvid, drive"),
        ("digits", {"size": [16, 16]}, ConfigError, r"size=\[16, 16\]: images of digits are square"),
    ],
)
def test_bad_requests_say_what_to_do(
    tmp_path: Path, name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    write_camvid(tmp_path)
    write_drive(tmp_path)
    write_pairs(tmp_path)
    with pytest.raises(error, match=message):
        datasets.load(name, root=tmp_path, **options)


@pytest.mark.skipif(not (REAL / "DRIVE").is_dir(), reason="DEEPSUP_DATA names no folder with DRIVE in it")
def test_as_many_pixels_in_view_as_the_published_matrices_count() -> None:
    """The confusion matrices of retina-unet sum to 3895256 + 65238 + 134513 + 443136 pixels, 577,649 of them vessel."""
    _, validation = maps("drive", REAL)
    labels = torch.cat([validation.item(i)[1].flatten() for i in range(20)])
    assert (int((labels >= 0).sum()), int((labels == 1).sum())) == (4538143, 134513 + 443136)


@pytest.mark.skipif(not (REAL / "CamVid").is_dir(), reason="DEEPSUP_DATA names no folder with CamVid in it")
def test_the_published_split_of_camvid() -> None:
    data = datasets.load("camvid", root=REAL, size=90)
    assert str(data) == "camvid: 367 training and 101 validation images, 3x90x120, 11 classes"
