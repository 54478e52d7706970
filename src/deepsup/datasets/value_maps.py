"""Images with a number, or several, for every pixel: files to tensors, and what is in them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepsup.datasets.image_files import Opened, opened, opened_pages, read_image
from deepsup.datasets.image_ranges import Ranges
from deepsup.datasets.pairs import Pair
from deepsup.errors import DatasetError
from deepsup.losses.resizing import shrink_values

SUFFIXES = (".npy", ".tif", ".tiff", ".png")
"""What the names of files with maps end with."""


class Mapped(NamedTuple):
    """An image, uint8 `(3, H, W)`, and its values, float32 `(C, H, W)`, NaN where one does not count."""

    image: Tensor
    values: Tensor


class Seen(NamedTuple):
    """What is in a map, by channel `(C,)`: how many values count, the smallest, their sum and the largest."""

    shape: tuple[int, int]
    known: Tensor
    low: Tensor
    total: Tensor
    high: Tensor


@dataclass(frozen=True)
class MapReader:
    """From files to what is served: both at `size`, height and width, or at their own."""

    size: tuple[int, int] | None = None
    ranges: Ranges = field(default_factory=Ranges)
    pages: bool = False  # of a map's file are its channels

    def __call__(self, pair: Pair) -> Mapped:
        """DatasetError names the file that is wrong."""
        photo = read_image(pair.image, self.ranges)
        if photo.orientation != 1:  # nobody can tell whether the map was made before or after
            raise DatasetError(
                f"the image {pair.image} is turned by its EXIF orientation, and {pair.mask} is a map of numbers, which has none. "
                "Save the image upright, as its map is."
            )
        values, size = read_map(pair.mask, pages=self.pages), photo.pixels.shape[:2]
        if tuple(values.shape[1:]) != size:
            last = " Channels come first, (C, H, W)." if tuple(values.shape[:2]) == size else ""
            raise DatasetError(
                f"{pair.image} is {size[0]}x{size[1]} (height x width), its map {pair.mask} has the shape {tuple(values.shape)}."
                f"{last} They must be of the same size; take the files that belong together."
            )
        image = torch.from_numpy(photo.pixels).permute(2, 0, 1).contiguous()
        return Mapped(resized_image(image, self.size), resized_values(values, self.size))


def read_map(path: Path, *, pages: bool = False) -> Tensor:
    """Values `(C, H, W)`, float32, of a NumPy file (H, W) or (C, H, W), or of an image file with a number a pixel, whose
    `pages` are channels if that is said.
    """
    found = _array(path) if path.suffix.lower() == ".npy" else _pages(path) if pages else _pixels(opened(path, "map"))
    if found.dtype.kind not in "biuf" or found.ndim not in (2, 3) or not found.size:
        raise DatasetError(
            f"the map {path} holds {found.dtype} of shape {found.shape}. A map is numbers, (H, W) or (C, H, W)."
        )
    with np.errstate(over="ignore"):  # what is too large is infinite, and said below
        values = torch.from_numpy(np.array(found, dtype=np.float32, order="C"))
    if bool(values.isinf().any()):
        raise DatasetError(
            f"the map {path} holds values that are no finite numbers of 32 bits. Write NaN where a value does not count."
        )
    return values[None] if values.ndim == 2 else values


def _array(path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DatasetError(f"cannot read the map {path}: {error}. Replace it by a file that opens.") from None
    return found


def _pages(path: Path) -> NDArray[Any]:
    found = [_pixels(page) for page in opened_pages(path, "map")]
    sizes = {page.shape for page in found}
    if len(sizes) > 1:
        raise DatasetError(
            f"the map {path} has pages of the shapes {', '.join(map(str, sorted(sizes)))}, and channels are alike. Save it again "
            "without previews."
        )
    return np.stack(found)


def _pixels(file: Opened) -> NDArray[Any]:
    if not (file.is_deep or file.image.mode in ("L", "1")) or file.orientation != 1:
        raise DatasetError(
            f"the map {file.path} has pixels of the kind {file.image.mode!r}, and a map has one number a pixel, upright. Save it "
            "as .npy, or as a TIFF of floats."
        )
    return np.asarray(file.image)


def seen(mapped: Mapped) -> Seen:
    """What is in a map."""
    values = mapped.values.flatten(1)
    known = ~values.isnan()
    ends = (torch.where(known, values, end).double() for end in (float("inf"), 0.0, float("-inf")))
    low, total, high = ends
    shape = (mapped.values.shape[1], mapped.values.shape[2])
    return Seen(shape, known.sum(1), low.amin(1), total.sum(1), high.amax(1))


def resized_image(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """An image (3, H, W), uint8, at another size: bilinear, with antialiasing."""
    if size is None or size == tuple(image.shape[1:]):
        return image
    functional = importlib.import_module("torchvision.transforms.v2.functional")
    modes = functional.InterpolationMode
    found: Tensor = functional.resize(image, list(size), interpolation=modes.BILINEAR, antialias=True)
    return found


def resized_values(values: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Values (C, H, W) at another size: the mean over what counts in each cell, NaN where nothing does."""
    if size is None or size == tuple(values.shape[1:]):
        return values
    known = ~values.isnan()
    mean, counts = shrink_values(torch.where(known, values, 0.0)[None], known.float()[None], size)
    return torch.where(counts > 0, mean, torch.nan)[0]
