"""What was found on disk, in words and as data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from deepsup import datasets
from tests.support.drawn_images import write
from tests.support.tiny_images import write_pets
from tests.support.tiny_layouts import SHAPE, blocks, picture, write_pairs


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "pets")


def lines(name: str, root: Path) -> list[str]:
    return datasets.load(name, root=root).found.lines


def test_a_class_folder_in_words(pets: Path) -> None:
    random = np.random.default_rng(0)
    write(pets / "train/cat/9.png", random.integers(7, 200, (50, 40, 4), np.uint8), orientation=6)
    found = datasets.load("folder", root=pets, size=12).found
    assert str(found).splitlines() == [
        "training: 8 images (7 RGB, 1 RGB with transparency), 14x20 to 40x50, values 0 to 255, 1 turned as EXIF says, "
        "1 with transparency, laid on black; 62.5 % cat, 37.5 % dog",
        "validation: 4 images (grey), 14x20, values 2 to 255; 0 % cat, 100 % dog",
        "served with 3 channels of 12x12",
        "not read: 1 *.txt",
        "note: validation has nothing of 'cat'",
    ]


def test_all_of_it_as_data(pets: Path) -> None:
    told = json.loads(json.dumps(datasets.load("folder", root=pets, size=12).found.to_dict()))
    assert told["training"]["images"] == 7
    assert told["training"]["kinds"] == {"RGB": 7}
    assert told["training"]["sizes"] == [[14, 20], [33, 11]]
    assert told["training"]["shares"] == pytest.approx({"cat": 4 / 7, "dog": 3 / 7})
    assert told["skipped"] == {"*.txt": 1}
    assert (told["channels"], told["served"]) == (3, [12, 12])
    assert told["lines"][0].startswith("training: 7 images (RGB)")


def test_pairs_in_words(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, classes="sky\nvoid\ntree")
    (root / "train" / "masks" / "notes.md").write_text("by hand")
    (root / "train" / "images" / ".DS_Store").touch()
    share = np.mean([np.mean(blocks(n) == 0) for n in range(3)]) / np.mean([np.mean(blocks(n) != 1) for n in range(3)])
    said = lines("pairs", root)
    assert said[0].startswith("training: 3 images (RGB), 24x32, values 0 to 255; ")
    assert f"; {100 * share:.3g} % sky, {100 - 100 * share:.3g} % tree; 33.3 % of the pixels are void" in said[0]
    assert "not read: 1 hidden, 1 *.md" in said
    assert "note: in masks 0 is sky, 2 is tree; void 1, 255" in said


def test_masks_in_colours_in_words(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [1, 2, 3], [250, 10, 20]], np.uint8)
    root = write_pairs(tmp_path, stored=lambda mask: colours[mask], classes="a 0 0 0\nb 1 2 3\nc 250 10 20")
    assert "note: masks are read by the colours of the classes, those without colours by number" in lines("pairs", root)


def test_the_range_of_many_bits_is_said(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    for n, path in enumerate(sorted(root.glob("*/images/*"))):
        write(path, np.full(SHAPE, 3000 + n, np.uint16))
    said = lines("pairs", root)
    assert (
        "note: images of more than 8 bits are read as whole numbers from 0 to 4095 (12 bits), and become bytes" in said
    )
    assert "training: 3 images (16-bit grey), 24x32, values 3000 to 3002; " in said[0]


def test_images_that_are_all_but_black_are_noted(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    for n, path in enumerate(sorted((root / "train/images").iterdir())):
        write(path, np.full(SHAPE, n, np.uint8))
    assert "note: no value in the training images is above 2 of 255: they are all but black" in lines("pairs", root)


def test_copies_are_noted(pets: Path) -> None:
    shutil.copy(pets / "train/cat/0.png", pets / "val/dog/copy.png")
    shutil.copy(pets / "train/cat/0.png", pets / "train/dog/copy.png")
    write(pets / "train/cat/1.jpg", np.zeros((9, 9), np.uint8))
    said = "\n".join(lines("folder", pets))
    assert "note: 1 of 5 validation images are training images too, such as " in said
    assert "the score is not that of new images" in said
    assert "note: 1 training images are copies of others, such as " in said
    assert "note: 1 names are there with two suffixes, such as " in said
    assert "cat/1.jpg and 1.png" in said


def test_many_classes_are_cut_short(tmp_path: Path) -> None:
    for n in range(12):
        for k in range(n + 1):
            write(tmp_path / "train" / f"c{n:02}" / f"{k}.png", np.full((9, 9), 20 * n + k, np.uint8))
        write(tmp_path / "val" / f"c{n:02}" / "v.png", np.full((9, 8), 20 * n, np.uint8))
    assert lines("folder", tmp_path)[0].endswith("; 12 classes, from 1.28 % c00 to 15.4 % c11")


def test_data_in_memory_has_no_files() -> None:
    found = datasets.load("digits").found
    assert found.training.images == 1437
    assert found.training.kinds == {}
    assert found.lines[0].startswith("training: 1437 images, 16x16, values 0 to 1; 9.")
    assert found.lines[-1] == "served with 1 channel of 16x16"


def test_what_is_too_large_for_memory_is_said_not_to_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepsup.datasets.pairs.Pairs.counts", lambda self: None)
    assert "shares of classes not counted" in lines("pairs", write_pairs(tmp_path, classes="a\nb\nc"))[0]
    assert picture(blocks(0)).shape == (*SHAPE, 3)
