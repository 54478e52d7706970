"""Tests of pairs."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepsup import datasets
from deepsup.datasets.pairs import Pairs
from deepsup.errors import DatasetError
from tests.support.drawn_images import write
from tests.support.published_pixels import COLOURS, as_labels, maps, swapped
from tests.support.tiny_layouts import (
    SHAPE,
    blocks,
    picture,
    save,
    write_pairs,
)


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
                lambda r: Image.fromarray(np.full(SHAPE, 3.7, np.float32)).save(r / "train/images/0.tif"),
                r"images/0.png and .*images/0.tif are both",
            ),
            (
                lambda r: [p.write_bytes(b"") for p in sorted((r / "train/images").iterdir())],
                r"^3 of 10 files cannot be used:\n- cannot read the image .*train/images/0.png(.|\n)*train/images/2.png",
            ),
        ],
    )
    def test_files_that_are_wrong(self, tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
        change(write_pairs(tmp_path))
        with pytest.raises(DatasetError, match=message):
            datasets.load("pairs", root=tmp_path)

    @pytest.mark.parametrize("memory", [2**30, 0])
    def test_masks_that_do_not_fit_are_all_named_before_training(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
    ) -> None:
        monkeypatch.setitem(Pairs.__init__.__kwdefaults__, "memory", memory)
        root = write_pairs(tmp_path, classes="a\nb\nc")
        save(root / "val/masks/1.png", np.full(SHAPE, 7, np.uint8))
        with pytest.raises(DatasetError, match=r"val/masks/1.png holds 7 \(row 0, column 0\), which is no label"):
            datasets.load("pairs", root=root)
        save(root / "train/masks/0.png", np.full(SHAPE, 8, np.uint8))
        told = r"^2 of 2 masks cannot be used:\n- .*train/masks/0.png holds 8 (.|\n)*\n- .*val/masks/1.png holds 7 "
        with pytest.raises(DatasetError, match=told):
            datasets.load("pairs", root=root)
        save(root / "train/masks/0.png", blocks(0))
        for name in ("train/masks/1.png", "val/masks/1.png"):
            save(root / name, blocks(0, shape=(20, 30)))
        with pytest.raises(
            DatasetError, match=r"^2 of 5 images cannot be used:\n- .*train(.|\n)*val/masks/1.png is 20x30"
        ):
            datasets.load("pairs", root=root)

    def test_colours_that_no_class_has_are_all_named_before_training(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(Pairs.__init__.__kwdefaults__, "memory", 0)
        root = write_pairs(tmp_path, stored=lambda mask: COLOURS[mask], classes="a 0 0 0\nb 250 10 20\nc 1 2 4")
        with pytest.raises(
            DatasetError, match=r"^5 of 5 masks cannot be used:\n- the mask .* has the colour \(1, 2, 3\)"
        ):
            datasets.load("pairs", root=root)

    def test_accents_are_the_same_however_they_are_written(self, tmp_path: Path) -> None:
        root = write_pairs(tmp_path)
        for kind, form in (("images", "NFC"), ("masks", "NFD")):
            (root / "train" / kind / "0.png").rename(root / "train" / kind / f"{unicodedata.normalize(form, 'é')}.png")
        assert datasets.load("pairs", root=root).train.n_images == 3

    @pytest.mark.parametrize("drawn_on", ["seen", "file"])
    @pytest.mark.parametrize("orientation", [6, 8])
    def test_a_mask_is_turned_with_its_photograph(self, tmp_path: Path, drawn_on: str, orientation: int) -> None:
        root = write_pairs(tmp_path)
        mask = blocks(0)
        seen = np.rot90(mask, -1 if orientation == 6 else 1)
        write(root / "train/images/0.png", picture(mask), orientation=orientation)
        save(root / "train/masks/0.png", np.ascontiguousarray(seen) if drawn_on == "seen" else mask)
        train, _ = maps("pairs", root)
        assert torch.equal(train.item(0)[1], torch.from_numpy(seen.copy()).long())
        assert torch.equal(train.picture(0)[0] // 20, torch.from_numpy(seen.copy()))

    def test_half_a_turn_of_which_the_mask_says_nothing_is_refused(self, tmp_path: Path) -> None:
        root = write_pairs(tmp_path)
        write(root / "train/images/1.png", picture(blocks(1)), orientation=3)
        with pytest.raises(DatasetError, match=r"train/images/1.png is turned by its EXIF orientation \(3\)"):
            datasets.load("pairs", root=root)
        write(root / "train/masks/1.png", blocks(1), orientation=3)
        assert torch.equal(maps("pairs", root)[0].item(1)[1], torch.from_numpy(blocks(1)[::-1, ::-1].copy()).long())

    def test_sixteen_bit_images_are_read_by_the_range_of_all(self, tmp_path: Path) -> None:
        root = write_pairs(tmp_path)
        for part, high in (("train", 1000), ("val", 4095)):
            for path in (root / part / "images").iterdir():
                save(path, np.full(SHAPE, high, np.uint16))
        train, validation = maps("pairs", root)
        assert train.picture(0).unique().tolist() == [round(1000 * 255 / 4095)]
        assert validation.picture(0).unique().tolist() == [255]

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
