"""Mask files: exact labels, or an error that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepsup.datasets.image_files import Read, opened
from deepsup.datasets.mask_files import VOID, MaskReader, as_photographed, numbers_in, read_drawing
from deepsup.errors import DatasetError
from tests.support.drawn_images import write, write_palette, write_png

NUMBERS = np.array([[0, 1], [2, 255], [1, 0]], np.uint8)
THREE = MaskReader({0: 0, 1: 1, 2: 2, 255: VOID}, classes=3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_numbers_in_a_mask_stay_numbers(tmp_path: Path, ending: str, dtype: type) -> None:
    if (ending, dtype) == ("png", np.int32):
        pytest.skip("PNG has no 32 bits")
    path = write(tmp_path / f"m.{ending}", NUMBERS.astype(dtype))
    assert (numbers_in(opened(path, "mask")) == NUMBERS).all()
    assert (THREE.read(path).pixels == NUMBERS).all()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_numbers_of_few_bits_are_not_spread(tmp_path: Path, depth: int) -> None:
    numbers = np.arange(20).reshape(4, 5) % min(2**depth, 3)
    path = write_png(tmp_path / "m.png", numbers, depth=depth, kind=0)
    assert (THREE.read(path).pixels == numbers).all()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_mask_is_turned_as_it_says(tmp_path: Path, ending: str) -> None:
    read = THREE.read(write(tmp_path / f"m.{ending}", NUMBERS, orientation=6))
    assert read.orientation == 6
    assert np.array_equal(read.pixels, np.rot90(NUMBERS, -1))


def test_a_drawing_is_black_and_white_alone(tmp_path: Path) -> None:
    drawn = np.array([[0, 255], [255, 0]], dtype=np.uint8)
    assert (read_drawing(write(tmp_path / "d.png", drawn), "drawing").pixels == (drawn == 255)).all()
    with pytest.raises(DatasetError, match=r"grey\.png"):
        read_drawing(write(tmp_path / "grey.png", np.array([[0, 100]], dtype=np.uint8)), "drawing")
    with pytest.raises(DatasetError, match=r"deep\.png has more than 8 bits"):
        read_drawing(write(tmp_path / "deep.png", np.array([[0, 65535]], dtype=np.uint16)), "drawing")


class TestTurnedPhotographs:
    def mended(self, mask: np.ndarray, said: int, *, photo: tuple[int, ...], turned: int) -> np.ndarray:
        paths = (Path("photo.jpg"), Path("mask.png"))
        return as_photographed(Read(mask, said), Read(np.zeros(photo), turned), paths, what="mask")

    def test_a_mask_of_the_photograph_as_it_is_seen(self) -> None:
        assert np.array_equal(self.mended(NUMBERS, 1, photo=(3, 2, 3), turned=6), NUMBERS)

    @pytest.mark.parametrize(("turned", "quarters"), [(6, -1), (8, 1)])
    def test_a_mask_of_the_photograph_as_it_lies_in_the_file(self, turned: int, quarters: int) -> None:
        mended = self.mended(NUMBERS, 1, photo=(2, 3, 3), turned=turned)
        assert np.array_equal(mended, np.rot90(NUMBERS, quarters))

    def test_a_mask_that_says_how_it_lies_is_believed(self) -> None:
        assert np.array_equal(self.mended(NUMBERS, 3, photo=(3, 2, 3), turned=3), NUMBERS)

    @pytest.mark.parametrize(("photo", "turned", "mask"), [((3, 2, 3), 3, NUMBERS), ((2, 2, 3), 6, NUMBERS[:2])])
    def test_where_the_sides_do_not_tell_it_is_refused(
        self, photo: tuple[int, ...], turned: int, mask: np.ndarray
    ) -> None:
        with pytest.raises(DatasetError, match=rf"photo\.jpg is turned .*\({turned}\).* mask mask\.png says nothing"):
            self.mended(mask, 1, photo=photo, turned=turned)
        same = np.ones_like(mask)  # looks the same either way
        assert np.array_equal(self.mended(same, 1, photo=photo, turned=turned), same)

    def test_a_mask_of_another_size_is_left_as_it_is(self) -> None:
        assert self.mended(NUMBERS, 1, photo=(7, 9, 3), turned=6).shape == (3, 2)


@pytest.mark.parametrize("pixels", [[[[0, 0, 0, 255], [9, 9, 9, 0]]], [[[0, 0, 0, 254]]]])
def test_a_mask_that_is_transparent_in_places_is_refused(tmp_path: Path, pixels: list) -> None:
    path = write(tmp_path / "m.png", np.array(pixels, np.uint8))
    for read in (THREE.read, lambda path: read_drawing(path, "mask")):
        with pytest.raises(DatasetError, match=r"m\.png is transparent in places"):
            read(path)


def test_a_palette_that_is_transparent_where_it_is_used(tmp_path: Path) -> None:
    colours = [(0, 0, 0), (9, 9, 9), (1, 1, 1)]
    used = write_palette(tmp_path / "a.png", [[0, 1]], colours, transparency=1)
    with pytest.raises(DatasetError, match=r"a\.png is transparent in places"):
        THREE.read(used)
    unused = write_palette(tmp_path / "b.png", [[0, 1]], colours, transparency=2)
    assert THREE.read(unused).pixels.tolist() == [[0, 1]]


def test_an_opaque_mask_with_a_fourth_channel_is_read(tmp_path: Path) -> None:
    reader = MaskReader({0: 0, 1: 1}, classes=2, colours=((0, 0, 0), (250, 0, 0)))
    path = write(tmp_path / "m.png", np.array([[[0, 0, 0, 255], [250, 0, 0, 255]]], np.uint8))
    assert reader.read(path).pixels.tolist() == [[0, 1]]


def test_a_jpeg_changes_the_numbers_of_a_mask(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"m\.jpg is a JPEG, which changes the numbers"):
        THREE.read(write(tmp_path / "m.jpg", NUMBERS))


def test_floats_and_colours_are_no_numbers(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "m.tif")
    with pytest.raises(DatasetError, match=r"m\.tif is stored as F, not as one whole number a pixel"):
        THREE.read(tmp_path / "m.tif")
