"""Image and mask files, read exactly, or an error that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepsup.datasets.image_files import in_colour, numbers_in, opened, read_drawing, read_rgb, size_in
from deepsup.errors import DatasetError


def saved(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_pixels_are_those_that_were_saved(tmp_path: Path) -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    path = saved(tmp_path / "a.png", pixels)
    assert (read_rgb(path) == pixels).all()
    assert (np.asarray(in_colour(path)) == pixels).all()
    assert size_in(path) == (4, 5)


def test_grey_is_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    assert (read_rgb(saved(tmp_path / "a.png", grey)) == grey[..., None]).all()


def test_numbers_in_a_mask_stay_numbers(tmp_path: Path) -> None:
    numbers = np.array([[0, 1], [7, 255]], dtype=np.uint8)
    path = saved(tmp_path / "m.png", numbers)
    assert (numbers_in(opened(path, "mask"), path) == numbers).all()


def test_a_drawing_is_black_and_white_alone(tmp_path: Path) -> None:
    drawn = np.array([[0, 255], [255, 0]], dtype=np.uint8)
    assert (read_drawing(saved(tmp_path / "d.png", drawn), "drawing") == (drawn == 255)).all()
    with pytest.raises(DatasetError, match=r"grey\.png"):
        read_drawing(saved(tmp_path / "grey.png", np.array([[0, 100]], dtype=np.uint8)), "drawing")


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"broken\.png"):
        read_rgb(path)
