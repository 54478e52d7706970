"""Data sets with a label a pixel: layouts, what masks mean, batches, and what is said about files that are wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from deepsup import datasets
from deepsup.datasets import MapSplit, published_classes
from deepsup.errors import ConfigError, DatasetError, MissingPackageError
from tests.support.tiny_layouts import (
    SHAPE,
    blocks,
    disc,
    picture,
    save,
    write_ade20k,
    write_camvid,
    write_cityscapes,
    write_drive,
    write_pairs,
)

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


def swapped(mask: Any, numbers: dict[int, int]) -> Any:
    found = mask.copy()
    for old, new in numbers.items():
        found[mask == old] = new
    return found


COLOURS = np.array([[0, 0, 0], [250, 10, 20], [1, 2, 3]], np.uint8)


class TestPairs:
    def test_classes_are_counted(self, tmp_path: Path) -> None:
        stored = lambda mask: swapped(mask, {1: 255})  # noqa: E731
        with pytest.warns(
            datasets.AbsentClassWarning, match="^class '1' occurs in no training mask; 33.3 % of the pix"
        ):
            train, _ = maps("pairs", write_pairs(tmp_path, stored=stored))
        assert (train.class_names, train.names) == (("0", "1", "2"), ("0", "1", "2"))
        assert torch.equal(train.item(2)[1], as_labels(blocks(2), {0: 0, 2: 2}))

    @pytest.mark.parametrize(
        ("text", "void", "numbers"),
        [
            ("pairs(void=0)", 0, {1: 0, 2: 1}),  # what lies above the void moves down
            ("pairs(void=1)", 1, {0: 0, 2: 1}),
            ("pairs(void=2)", 2, {0: 0, 1: 1}),
            ("pairs(void=None)", None, {0: 0, 1: 1, 2: 2}),
        ],
    )
    def test_any_number_may_be_void(self, tmp_path: Path, text: str, void: int | None, numbers: dict[int, int]) -> None:
        train, _ = maps(text, write_pairs(tmp_path))
        assert train.classes == len(numbers)
        assert torch.equal(train.item(0)[1], as_labels(blocks(0), numbers))

    @pytest.mark.parametrize("mode", [None, "P", "I;16"])
    def test_names_from_a_file_and_every_kind_of_number(self, tmp_path: Path, mode: str | None) -> None:
        stored: Callable[[Any], Any] = (lambda mask: mask.astype(np.uint16)) if mode == "I;16" else lambda mask: mask
        root = write_pairs(tmp_path, classes="sky\nold town\n\ntree\n", stored=stored)
        if mode == "P":
            for path in root.glob("*/masks/*"):
                image = Image.fromarray(np.array(Image.open(path)))
                image.putpalette([7, 7, 7, 200, 0, 0, 0, 200, 0] + [0] * 759)  # the colours say nothing
                image.save(path)
        train, _ = maps("pairs", root)
        assert train.class_names == ("sky", "old town", "tree")
        assert torch.equal(train.item(1)[1], as_labels(blocks(1), {0: 0, 1: 1, 2: 2}))

    def test_masks_in_colour(self, tmp_path: Path) -> None:
        classes = "background 0 0 0\nvoid 1 2 3\ncell wall 250 10 20\n"
        train, _ = maps("pairs", write_pairs(tmp_path, stored=lambda mask: COLOURS[mask], classes=classes))
        assert (train.class_names, train.palette) == (("background", "cell wall"), ((0, 0, 0), (250, 10, 20)))
        assert torch.equal(train.item(0)[1], as_labels(blocks(0), {0: 0, 1: 1}))

    def test_colours_beside_masks_of_numbers(self, tmp_path: Path) -> None:
        train, _ = maps("pairs", write_pairs(tmp_path, classes="a 0 0 0\nb 9 9 200\nc 3 3 3"))
        assert train.palette[1] == (9, 9, 200)
        assert torch.equal(train.item(0)[1], as_labels(blocks(0), {0: 0, 1: 1, 2: 2}))

    def test_black_and_white_masks_by_their_greys(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"mask": lambda n: blocks(n, labels=(0, 1)), "stored": lambda mask: mask * 255}
        root = write_pairs(tmp_path, **options)
        with pytest.raises(DatasetError, match=r"hold 0 and 255 alone.*'background 0 0 0' and 'object 255 255 255'"):
            datasets.load("pairs", root=root)
        train, _ = maps("pairs", write_pairs(tmp_path, classes="background 0 0 0\nobject 255 255 255", **options))
        assert torch.equal(train.item(0)[1], as_labels(blocks(0, labels=(0, 1)), {0: 0, 1: 1}))

    def test_one_bit_masks_are_zero_and_one(self, tmp_path: Path) -> None:
        root = write_pairs(tmp_path, mask=lambda n: blocks(n, labels=(0, 1)), stored=lambda mask: mask.astype(bool))
        train, _ = maps("pairs", root)
        assert torch.equal(train.item(0)[1], as_labels(blocks(0, labels=(0, 1)), {0: 0, 1: 1}))

    def test_a_mask_may_be_void_all_over(self, tmp_path: Path) -> None:
        root = write_pairs(tmp_path)
        save(root / "train" / "masks" / "1.png", np.full(SHAPE, 255, np.uint8))
        assert set(maps("pairs", root)[0].item(1)[1].unique().tolist()) == {-100}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda r: save(r / "train/masks/1.png", blocks(0, shape=(24, 30))),
                r"1.png is 24x32 .*masks/1.png is 24x30",
            ),
            (
                lambda r: save(r / "train/masks/1.png", picture(blocks(0))),
                r"train/masks/1.png is stored as RGB.*classes.txt",
            ),
            (lambda r: (r / "val/masks/0.png").write_bytes(b"no image"), r"cannot read the mask .*val/masks/0.png: "),
            (lambda r: (r / "train/images/2.png").write_bytes(b""), r"cannot read the image .*train/images/2.png: "),
            (
                lambda r: (r / "train/masks/1.png").unlink(),
                r"train/images/1.png has no mask: looked for '1' among the 2",
            ),
            (lambda r: (r / "val/images/1.png").unlink(), r"val/masks/1.png has no image: looked for '1' among the 1"),
            (lambda r: [p.unlink() for p in (r / "val/images").iterdir()], r"no image file \(png, .*in .*val/images"),
            (lambda r: save(r / "train/images/1.jpg", picture(blocks(1))), r"images/1.jpg and .*images/1.png are both"),
            (
                lambda r: Image.fromarray(np.full(SHAPE, 4000, np.uint16)).save(r / "train/images/0.png"),
                r"train/images/0.png has pixels of the kind 'I;16'.*8-bit",
            ),
        ],
    )
    def test_files_that_are_wrong(self, tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
        change(write_pairs(tmp_path))
        with pytest.raises(DatasetError, match=message):
            datasets.load("pairs", root=tmp_path)

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            ("only\n", "classes.txt names 1 classes"),
            ("a\nb\n", r"masks/0.png holds 2 \(row .*labels are 0 to 1, void is 255"),
            ("a 0 0 0\nb\nc 2 2 2", "gives colours to some classes and none to 'b'"),
            ("a\nb\na", "a name or a colour twice"),
            ("a 0 0 0\nb 1 1 1\nc 1 1 1", "a name or a colour twice"),
            ("a 0 0 0\nb 1 1 256", "has the colour 1 1 256; its parts must be from 0 to 255"),
        ],
    )
    def test_a_list_of_classes_that_is_wrong(self, tmp_path: Path, classes: str, message: str) -> None:
        with pytest.raises(DatasetError, match=message):
            datasets.load("pairs", root=write_pairs(tmp_path, classes=classes))

    def test_a_colour_that_no_class_has(self, tmp_path: Path) -> None:
        root = write_pairs(tmp_path, stored=lambda mask: COLOURS[mask], classes="a 0 0 0\nb 250 10 20\nc 1 2 4")
        with pytest.raises(
            DatasetError, match=r"masks/0.png has the colour \(1, 2, 3\) \(row \d+, column \d+\), which no"
        ):
            datasets.load("pairs", root=root)

    def test_one_label_alone(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="hold one label alone"):
            datasets.load("pairs", root=write_pairs(tmp_path, mask=lambda n: blocks(n, labels=(0,))))

    def test_two_classes_saved_as_black_and_white_would_leave_white_out(self, tmp_path: Path) -> None:
        root = write_pairs(
            tmp_path, mask=lambda n: blocks(n, labels=(0, 1)), stored=lambda mask: mask * 255, classes="bg\nfg\n"
        )
        share = np.mean([np.mean(blocks(n, labels=(0, 1)) == 1) for n in range(3)])
        with pytest.raises(
            DatasetError,
            match=rf"^class 'fg' occurs in no training mask; {100 * share:.3g} % of the pixels are void.*"
            "255 is void: if .* 'bg 0 0 0' and 'fg 255 255 255'",
        ):
            datasets.load("pairs", root=root)
        (root / "classes.txt").write_text("bg 0 0 0\nfg 255 255 255\n")
        assert torch.equal(maps("pairs", root)[0].item(0)[1], torch.from_numpy(blocks(0, labels=(0, 1))).long())

    @pytest.mark.parametrize(("part", "message"), [("train", "nothing to learn"), ("val", "nothing can be scored")])
    def test_masks_in_which_nothing_counts(self, tmp_path: Path, part: str, message: str) -> None:
        root = write_pairs(tmp_path)
        for path in (root / part / "masks").iterdir():
            save(path, np.full(SHAPE, 255, np.uint8))
        told = {"train": "the 3 training masks", "val": "the 2 validation masks"}[part]
        with pytest.raises(DatasetError, match=f"^no pixel of {told} counts: all of them are void, so .*{message}"):
            datasets.load("pairs", root=root)

    def test_one_class_of_three_in_the_training_masks(self, tmp_path: Path) -> None:
        root = write_pairs(tmp_path, classes="a\nb\nc")
        for path in (root / "train" / "masks").iterdir():
            save(path, np.full(SHAPE, 1, np.uint8))
        with pytest.raises(DatasetError, match=r"^classes 'a', 'c' occur in no training mask\. With one class alone"):
            datasets.load("pairs", root=root)

    def test_a_class_that_no_training_mask_has_is_warned_of_here(self, tmp_path: Path) -> None:
        root = write_pairs(tmp_path, classes="a\nb\nc\nd")
        with pytest.warns(datasets.AbsentClassWarning, match="^class 'd' occurs in no training mask.$") as warned:
            datasets.load("pairs", root=root)
        assert [w.filename for w in warned] == [__file__]
        datasets.load("pairs", root=root, limit=2)  # of some images on request one cannot ask for all classes

    def test_needs_a_root_with_both_parts(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="'pairs' needs root="):
            datasets.load("pairs")
        with pytest.raises(DatasetError, match="Missing: train/images, train/masks, val/images, val/masks"):
            datasets.load("pairs", root=tmp_path)


class TestWholeImages:
    def test_batches_are_normalised_and_pictures_are_not(self, tmp_path: Path) -> None:
        train, _ = maps("pairs", write_pairs(tmp_path))
        x, y = next(train.batches(3, seed=0, epoch=0, shuffle=False))
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((3, 3, *SHAPE), torch.float32, (3, *SHAPE), torch.int64)
        stored = torch.from_numpy(picture(blocks(1))).permute(2, 0, 1)
        assert torch.equal(train.picture(1), stored)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        torch.testing.assert_close(x[1], (stored / 255 - mean[:, None, None]) / std[:, None, None])
        assert torch.equal(train.item(1)[0], x[1])
        assert torch.equal(train.item(1)[1], y[1])

    @pytest.mark.parametrize(
        ("size", "shape"), [(12, (12, 16)), (48, (48, 64)), ((10, 30), (10, 30)), ([24, 32], SHAPE)]
    )
    def test_resized(self, tmp_path: Path, size: Any, shape: tuple[int, int]) -> None:
        _, validation = maps("pairs", write_pairs(tmp_path), size=size, crop=8)
        assert validation.shape == shape
        mask = torch.from_numpy(blocks(10))
        rows, columns = ((torch.arange(n) + 0.5) * m / n for n, m in zip(shape, SHAPE, strict=True))
        assert torch.equal(
            validation.item(0)[1], mask[rows.long()][:, columns.long()].long()
        )  # the pixel at the centre
        with Image.open(tmp_path / "val" / "images" / "0.png") as image:
            expected = np.array(image.resize(shape[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert int((validation.picture(0).int() - torch.from_numpy(expected).int()).abs().max()) <= 1

    def test_images_of_unequal_size_share_a_batch(self, tmp_path: Path) -> None:
        shapes = [(24, 32), (20, 40), (30, 8)]
        root = write_pairs(tmp_path, mask=lambda n: blocks(n, shape=shapes[n % 10]), validation=3)
        _, validation = maps("pairs", root)
        assert validation.shape == (30, 40)
        x, y = next(validation.batches(3, seed=0, epoch=0, shuffle=False))
        assert x.shape == (3, 3, 30, 40)
        for row, (height, width) in enumerate(shapes):
            own, labels = validation.item(row)
            assert torch.equal(x[row, :, :height, :width], own)
            assert torch.equal(y[row, :height, :width], labels)
            assert float(x[row, :, height:].abs().sum() + x[row, :, :, width:].abs().sum()) == 0
            assert set(y[row, height:].unique().tolist()) | set(y[row, :, width:].unique().tolist()) <= {-100}
        alone = next(validation.batches(1, seed=0, epoch=0, shuffle=False, start=2))
        assert alone[0].shape == (1, 3, 30, 8)

    def test_limit_takes_training_images_alone(self, tmp_path: Path) -> None:
        root = write_camvid(tmp_path, train=6)
        small, large = (maps("camvid", root, limit=limit) for limit in (2, 5))
        assert (small[0].n_images, small[1].n_images) == (2, 2)
        assert small[0].names == large[0].names[:2]

    def test_only_training_is_cut_and_augmented(self, tmp_path: Path) -> None:
        data = datasets.load("camvid", root=write_camvid(tmp_path), crop=8, patches=5, augment="flips")
        assert str(data) == "camvid: 4 training (20 patches an epoch) and 2 validation images, 3x8x8, 11 classes"
        assert (data.validation.augment, data.validation.shape, len(data.validation)) == ("none", SHAPE, 2)
        assert repr(data.train) == "MapSplit(20 images 3x8x8, 11 classes, augment='flips')"


class TestVessels:
    def test_as_the_published_code_does_it(self) -> None:
        cv2 = pytest.importorskip("cv2")
        random = np.random.default_rng(0)
        rows, columns = np.mgrid[:64, :72]
        images = [
            (120 + 60 * np.sin(rows / 9 + k) + 40 * np.cos(columns / 5) + random.normal(0, 9, (64, 72)))[..., None]
            * np.array([1.0, 0.6, 0.3])
            for k in range(3)
        ]
        images = [image.clip(0, 255).astype(np.uint8) for image in images]
        grey = np.stack([0.299 * i[..., 0] + 0.587 * i[..., 1] + 0.114 * i[..., 2] for i in images])
        standardised = (grey - grey.mean()) / grey.std()  # over all images, then each stretched by itself
        table = np.array([((i / 255.0) ** (1 / 1.2)) * 255 for i in range(256)]).astype(np.uint8)
        for image, values in zip(images, standardised, strict=True):
            stretched = ((values - values.min()) / (values.max() - values.min()) * 255).astype(np.uint8)
            expected = cv2.LUT(cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(stretched), table)
            found = datasets.preparation.vessels(image)
            assert found.shape == (64, 72)
            assert float((found == expected).mean()) > 0.995  # the last digit of a float decides the others
            assert int(np.abs(found.astype(int) - expected).max()) <= 3

    def test_standardised_by_what_is_in_view_of_all_training_images(self, tmp_path: Path) -> None:
        pytest.importorskip("cv2")
        train, validation = maps("drive", write_drive(tmp_path, images=3), prepare="vessels")
        values = torch.cat([train.item(i)[0][0][train.item(i)[1] >= 0] for i in range(3)]).double()
        assert abs(float(values.mean())) < 1e-5
        assert abs(float(values.std(correction=0)) - 1) < 1e-5
        limited, _ = maps("drive", tmp_path, prepare="vessels", limit=1)
        assert torch.equal(limited.mean, train.mean)
        assert torch.equal(validation.mean, train.mean)
        assert (train.channels, train.item(0)[0].shape, train.picture(0).shape) == (1, (1, 40, 36), (3, 40, 36))

    def test_without_opencv(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = write_drive(tmp_path)
        monkeypatch.setitem(sys.modules, "cv2", None)
        assert maps("drive", root)[0].channels == 3
        with pytest.raises(MissingPackageError, match=r'opencv-python-headless.*pip install "deepsup\[maps\]"'):
            datasets.load("drive", root=root, prepare="vessels")

    def test_a_flat_image_stays_finite(self) -> None:
        pytest.importorskip("cv2")
        assert datasets.preparation.vessels(np.full((16, 16, 3), 90, np.uint8)).shape == (16, 16)


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


def test_colours_tell_all_classes_apart() -> None:
    for named in (published_classes.CAMVID, published_classes.CITYSCAPES, published_classes.DRIVE):
        assert len(set(named.values())) == len(named)


REAL = Path(os.environ.get("DEEPSUP_DATA", "not set"))


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
