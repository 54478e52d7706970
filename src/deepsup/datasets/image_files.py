"""Image and mask files, read exactly: what is in a mask becomes a label, or an error that names the file."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepsup.errors import DatasetError

VOID = 255
"""How a pixel that does not count is stored, beside labels from 0 on in one byte each; served as -100."""
MOST_CLASSES = 255
_OUTSIDE = -1
_NEARLY = 8  # what counts as black and white
_NUMBERED = {"1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N"}  # Pillow's modes with one whole number a pixel
_EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}

Bytes = NDArray[np.uint8]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class MaskReader:
    """From a mask file to labels `(H, W)` of one byte: 0 to `classes` - 1, and `VOID`.

    Example: `MaskReader({0: 0, 1: 1, 255: VOID}, classes=2).read(Path("masks/a.png"))`.

    `numbers` says which label each number in a file stands for. With `colours`, one a class, masks stored as RGB are read
    by colour; where all of them are greys, so are masks stored as grey.
    """

    numbers: Mapping[int, int]
    classes: int
    colours: tuple[Colour, ...] | None = None

    def read(self, path: Path) -> Bytes:
        """The labels in a file; DatasetError for one that does not open, or that holds what is no label."""
        image = opened(path, "mask")
        if self.colours is not None and (image.mode in ("RGB", "RGBA") or (self._greys and image.mode in ("L", "1"))):
            return self._by_colour(np.asarray(image.convert("RGB")), path)
        values = numbers_in(image, path)
        table = np.full(max(*self.numbers, 255) + 2, _OUTSIDE, np.int16)
        for number, label in self.numbers.items():
            table[number] = label
        last = len(table) - 1  # no number of a label
        labels = table[np.where((values < 0) | (values > last), last, values)]
        if (labels == _OUTSIDE).any():
            row, column = np.argwhere(labels == _OUTSIDE)[0]
            raise DatasetError(
                f"the mask {path} holds {values[row, column]} (row {row}, column {column}), which is no label: "
                f"{self._known()}. Correct the mask, or name its class."
            )
        return labels.astype(np.uint8)

    @property
    def _greys(self) -> bool:
        return all(red == green == blue for red, green, blue in self.colours or ())

    def _by_colour(self, pixels: Bytes, path: Path) -> Bytes:
        found = _packed(pixels)
        labels = np.full(found.shape, _OUTSIDE, np.int16)
        for label, colour in enumerate(self.colours or ()):
            labels[found == _packed(np.array(colour, np.uint8))] = label
        if (labels == _OUTSIDE).any():
            row, column = np.argwhere(labels == _OUTSIDE)[0]
            shown = tuple(int(part) for part in pixels[row, column])
            raise DatasetError(
                f"the mask {path} has the colour {shown} (row {row}, column {column}), which no class has. Give it a line "
                "in classes.txt (name red green blue; the name void for what does not count), or save the mask without "
                "smoothing: as PNG, and resized to the nearest pixel."
            )
        labels[labels >= self.classes] = VOID  # a colour after those of the classes is void
        return labels.astype(np.uint8)

    def _known(self) -> str:
        labels = sorted(number for number, label in self.numbers.items() if label != VOID)
        voids = sorted(number for number, label in self.numbers.items() if label == VOID)
        spans = (
            f"{labels[0]} to {labels[-1]}" if labels[-1] - labels[0] == len(labels) - 1 else ", ".join(map(str, labels))
        )
        return f"labels are {spans}" + (f", void is {', '.join(map(str, voids[:3]))}" if 0 < len(voids) <= 3 else "")


def read_rgb(path: Path) -> Bytes:
    """An image as `(H, W, 3)`, grey ones in three equal channels; DatasetError for more than 8 bits a channel."""
    image = opened(path, "image")
    if image.mode not in _EIGHT_BITS:
        raise DatasetError(
            f"the image {path} has pixels of the kind {image.mode!r}, and turning them into 8 bits would lose what they say. "
            "Scale it to 0..255 yourself and save it as an 8-bit PNG."
        )
    return np.array(image.convert("RGB"))


def read_drawing(path: Path, what: str) -> NDArray[np.bool_]:
    """A drawing in black and white, `(H, W)`, True where it is white; DatasetError for what is neither.

    DRIVE's second observer saved (4, 2, 4) for black and (252, 254, 252) for white, so that a little is allowed.
    """
    pixels = np.asarray(opened(path, what).convert("L"))
    grey = (pixels > _NEARLY) & (pixels < 255 - _NEARLY)
    if grey.any():
        raise DatasetError(
            f"the {what} {path} should be black and white, and has {int(grey.sum())} pixels in between, such as "
            f"{int(pixels[grey][0])}. Save it without smoothing: 0 and 255 alone."
        )
    return np.asarray(pixels > 127)


def numbers_in(image: Any, path: Path) -> NDArray[np.int64]:
    """The whole numbers in a mask that is open; DatasetError where it has colours instead."""
    if image.mode not in _NUMBERED:
        raise DatasetError(
            f"the mask {path} is stored as {image.mode}, not as one number a pixel. Name the colours in classes.txt beside "
            "train/ and val/ (for each class a line: name red green blue), or save labels as an 8-bit grey PNG."
        )
    return np.asarray(image).astype(np.int64)


def opened(path: Path, what: str) -> Any:
    """A file as a PIL image with its pixels read; DatasetError where that fails."""
    with _opening(path, what) as image:
        image.load()
        return image


def in_colour(path: Path) -> Any:
    """An image file as a PIL image in RGB, whatever it was saved as; DatasetError where that fails."""
    with _opening(path, "image") as image:
        return image.convert("RGB")


def size_in(path: Path) -> tuple[int, int]:
    """Height and width that an image file states, without its pixels being read."""
    with _opening(path, "image") as image:
        return image.height, image.width


@contextmanager
def _opening(path: Path, what: str) -> Iterator[Any]:
    """A file as a PIL image; DatasetError with its path, in place of all that Pillow raises for one that is damaged."""
    pillow = importlib.import_module("PIL.Image")
    try:
        with path.open("rb") as file:
            yield pillow.open(file)
    except (OSError, SyntaxError, ValueError, struct.error, pillow.DecompressionBombError) as error:
        # What Pillow says of a file of another kind names an object, not a reason.
        other = "cannot identify image" in str(error)
        reason = "it is no image, or damaged at its beginning" if other else str(error)
        raise DatasetError(f"cannot read the {what} {path}: {reason}. Replace it by a file that opens.") from None


def _packed(pixels: Bytes) -> NDArray[np.uint32]:
    """A colour as one number."""
    parts = pixels.astype(np.uint32)
    return np.asarray(parts[..., 0] << 16 | parts[..., 1] << 8 | parts[..., 2])
