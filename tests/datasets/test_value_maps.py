"""Maps of numbers in files, and what is said of such as cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepsup.datasets.pairs import Pair
from deepsup.datasets.value_maps import Mapped, MapReader, read_map, resized_values, seen
from deepsup.errors import DatasetError
from tests.support.drawn_images import write, write_pages
from tests.support.tiny_tables import draw

NAN = float("nan")


def saved(path: Path, array: object) -> Path:
    np.save(path, np.asarray(array))
    return path


@pytest.mark.parametrize("kind", ["float64", "float16", "int16", "uint8", "bool"])
def test_numbers_of_any_kind(tmp_path: Path, kind: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)
    assert read_map(saved(tmp_path / "a.npy", array)).tolist() == [[[0, 1, 1], [1, 0, 1]]]
    assert read_map(saved(tmp_path / "a.npy", np.stack([array, array]))).shape == (2, 2, 3)


def test_images_with_a_number_a_pixel(tmp_path: Path) -> None:
    floats = np.array([[0.5, -3.0], [NAN, 1e6]], np.float32)
    Image.fromarray(floats).save(tmp_path / "a.tiff")
    torch.testing.assert_close(read_map(tmp_path / "a.tiff")[0], torch.from_numpy(floats), equal_nan=True)
    Image.fromarray(np.array([[0, 40000]], np.uint16)).save(tmp_path / "a.png")
    assert read_map(tmp_path / "a.png").tolist() == [[[0, 40000]]]
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "b.png")
    assert read_map(tmp_path / "b.png").tolist() == [[[0, 255]]]


BAD_ARRAYS = {
    "complex": (np.zeros((2, 2), np.complex64), "holds complex64 of shape"),
    "text": (np.array([["a"]]), "holds <U1 of shape"),
    "flat": (np.zeros(4), r"holds float64 of shape \(4,\)"),
    "empty": (np.zeros((0, 4)), "of shape"),
    "infinite": (np.array([[1.0, np.inf]]), "no finite numbers of 32 bits. Write NaN"),
    "too large": (np.array([[1.0, 1e200]]), "no finite numbers of 32 bits"),
    "objects": (np.array([[None]]), "cannot read the map .*allow_pickle"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_what_is_no_map_is_named(tmp_path: Path, case: str) -> None:
    array, said = BAD_ARRAYS[case]
    with pytest.raises(DatasetError, match=said) as caught:
        read_map(saved(tmp_path / "a.npy", array))
    assert "a.npy" in str(caught.value)


def test_damaged_files_and_colours(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(DatasetError, match=r"^cannot read the map .*a.npy"):
        read_map(tmp_path / "a.npy")
    with pytest.raises(DatasetError, match=r"^cannot read the map .*none.npy"):
        read_map(tmp_path / "none.npy")
    with pytest.raises(
        DatasetError, match=r"^the map .* has pixels of the kind 'RGB', .*\.npy, or as a TIFF of floats"
    ):
        read_map(draw(tmp_path / "a.png"))


def test_image_and_map_must_fit(tmp_path: Path) -> None:
    image = draw(tmp_path / "a.png", shape=(4, 6))
    with pytest.raises(DatasetError, match=r"a.png is 4x6 .*/a.npy has the shape \(1, 6, 4\)"):
        MapReader()(Pair("a", image, saved(tmp_path / "a.npy", np.zeros((6, 4)))))
    with pytest.raises(DatasetError, match=r"Channels come first, \(C, H, W\)"):
        MapReader()(Pair("a", image, saved(tmp_path / "a.npy", np.zeros((4, 6, 2)))))
    write(tmp_path / "b.png", np.zeros((4, 6, 3), np.uint8), orientation=3)
    with pytest.raises(DatasetError, match="turned by its EXIF orientation"):
        MapReader()(Pair("b", tmp_path / "b.png", saved(tmp_path / "b.npy", np.zeros((4, 6)))))


def test_a_smaller_map_has_the_mean_of_what_counts() -> None:
    values = torch.tensor([[[1.0, 3, NAN, NAN], [5, NAN, NAN, NAN]]])
    torch.testing.assert_close(resized_values(values, (1, 2)), torch.tensor([[[3.0, NAN]]]), equal_nan=True)
    wide = resized_values(values, (4, 8))
    assert wide.shape == (1, 4, 8)
    assert float(wide[0, 0, 0]) == 1
    assert wide[0, 0, -1].isnan()


def test_what_is_in_a_map() -> None:
    found = seen(Mapped(torch.zeros(3, 1, 3, dtype=torch.uint8), torch.tensor([[[1.0, NAN, -2]], [[NAN, NAN, NAN]]])))
    assert (found.shape, found.known.tolist()) == ((1, 3), [2, 0])
    assert (float(found.low[0]), float(found.total[0]), float(found.high[0])) == (-2, -1, 1)


def test_pages_are_channels_where_that_is_said(tmp_path: Path) -> None:
    pages = [np.full((2, 3), k + 0.5, np.float32) for k in range(3)]
    path = write_pages(tmp_path / "a.tif", pages)
    assert read_map(path, pages=True).tolist() == np.stack(pages).tolist()
    with pytest.raises(
        DatasetError, match=r"a\.tif holds 3 images, and one file is one map\. Where its pages are channels"
    ):
        read_map(path)
    assert read_map(write_pages(tmp_path / "b.tif", pages[:1]), pages=True).shape == (1, 2, 3)
    with pytest.raises(DatasetError, match=r"c\.tif has pages of the shapes \(1, 2\), \(2, 3\)"):
        read_map(write_pages(tmp_path / "c.tif", [pages[0], pages[1][:1, :2]]), pages=True)
    stack = write(tmp_path / "d.tif", np.zeros((2, 2), np.uint8), description="ImageJ=1.53t\nimages=24\nslices=24\n")
    with pytest.raises(DatasetError, match=r"cannot read the map .*d\.tif"):
        read_map(stack, pages=True)
