"""Mask files, read exactly: what is in a mask becomes a label, or an error that names the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepsup.datasets.image_files import Bytes, Opened, Read, opened, turned
from deepsup.errors import DatasetError

VOID = 255
"""How a pixel that does not count is stored, beside labels from 0 on in one byte each; served as -100."""
MOST_CLASSES = 255
_OUTSIDE = -1
_SAID = 10  # of many numbers
_NEARLY = 8  # what counts as black and white
_NUMBERED = {"1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N"}  # Pillow's modes with one whole number a pixel
_COLOURED = {"RGB", "RGBA", "P", "PA"}
_FEW_BITS = {"L;2": 85, "L;4": 17}  # numbers of 2 or 4 bits, which Pillow spreads over 0 to 255 as greys

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class MaskReader:
    """From a mask file to labels `(H, W)` of one byte: 0 to `classes` - 1, and `VOID`.

    Example: `MaskReader({0: 0, 1: 1, 255: VOID}, classes=2).read(Path("masks/a.png"))`.

    `numbers` says which label each number in a file stands for. With `colours`, one a class and then those of void, masks
    stored in colours or with a palette are read by colour; where all of them are greys, so are masks stored as grey.
    Without, of a palette the number of the entry counts, or with `grey_palettes` its grey. `rule` is said where a number
    is no label.
    """

    numbers: Mapping[int, int]
    classes: int
    colours: tuple[Colour, ...] | None = None
    grey_palettes: bool = False
    rule: str = ""

    def read(self, path: Path) -> Read:
        """The labels in a file; DatasetError for one that does not open, or that holds what is no label."""
        mask = opened(path, "mask")
        _check_opaque(mask)
        return Read(turned(self._labels(mask), mask.pending), mask.orientation)

    def _labels(self, mask: Opened) -> Bytes:
        path = mask.path
        if self.is_by_colour(mask):
            return self._by_colour(np.asarray(mask.image.convert("RGBA"))[..., :3], path)
        values = numbers_in(mask)
        palette = palette_of(mask) if self.grey_palettes else None
        if palette:
            values = np.array([red for red, _, _ in palette])[values]
        table = np.full(max(*self.numbers, 255) + 2, _OUTSIDE, np.int16)
        for number, label in self.numbers.items():
            table[number] = label
        last = len(table) - 1  # no number of a label
        labels = table[np.where((values < 0) | (values > last), last, values)]
        if (labels == _OUTSIDE).any():
            row, column = np.argwhere(labels == _OUTSIDE)[0]
            raise DatasetError(
                f"the mask {path} holds {values[row, column]} (row {row}, column {column}), which is no label: "
                f"{self._known()}. Correct the mask, or name its class.{self.rule and f' {self.rule}.'}"
            )
        return labels.astype(np.uint8)

    def said(self, names: Sequence[str]) -> str:
        """How masks are read, in words."""
        if self.colours:
            return "masks are read by the colours of the classes, those without colours by number"
        shown = [f"{number} is {names[label]}" for number, label in sorted(self.numbers.items()) if label != VOID]
        few = ", ".join(shown[:_SAID]) + (", ..." if len(shown) > _SAID else "")
        voids = [str(number) for number, label in sorted(self.numbers.items()) if label == VOID]
        return f"in masks {few}" + (f"; void {', '.join(voids)}" if 0 < len(voids) <= _SAID else "")

    def is_by_colour(self, mask: Opened) -> bool:
        """Whether such a mask is read by colour, and not by number."""
        return bool(self.colours) and (mask.image.mode in _COLOURED or (self._greys and mask.image.mode in ("L", "1")))

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


def read_drawing(path: Path, what: str) -> Read:
    """A drawing in black and white, `(H, W)`, True where it is white; DatasetError for what is neither.

    DRIVE's second observer saved (4, 2, 4) for black and (252, 254, 252) for white, so that a little is allowed.
    """
    drawing = opened(path, what)
    _check_opaque(drawing)
    if drawing.is_deep or drawing.is_cut:
        raise DatasetError(
            f"the {what} {path} has more than 8 bits, and should be black and white. Save it with 8 bits: 0 and 255 alone."
        )
    pixels = np.asarray(drawing.image.convert("L"))
    grey = (pixels > _NEARLY) & (pixels < 255 - _NEARLY)
    if grey.any():
        raise DatasetError(
            f"the {what} {path} should be black and white, and has {int(grey.sum())} pixels in between, such as "
            f"{int(pixels[grey][0])}. Save it without smoothing: 0 and 255 alone."
        )
    return Read(turned(pixels > 127, drawing.pending), drawing.orientation)


def numbers_in(mask: Opened) -> NDArray[np.int64]:
    """The whole numbers in a mask that is open, not turned; DatasetError where it has colours instead, or lossy numbers."""
    image, path = mask.image, mask.path
    if image.mode not in _NUMBERED:
        raise DatasetError(
            f"the mask {path} is stored as {image.mode}, not as one whole number a pixel. Name the colours in classes.txt "
            "beside train/ and val/ (for each class a line: name red green blue), or save labels as an 8-bit grey PNG."
        )
    if image.format in ("JPEG", "MPO"):
        raise DatasetError(
            f"the mask {path} is a JPEG, which changes the numbers that it stores. Save labels as an 8-bit grey PNG."
        )
    spread = next((step for raw, step in _FEW_BITS.items() if f"'{raw}'" in mask.raw), 1)
    return np.asarray(image).astype(np.int64) // spread


def palette_of(mask: Opened) -> tuple[Colour, ...] | None:
    """The colours of a mask's palette, black for numbers beyond its end; None where it has none."""
    if mask.image.mode != "P":
        return None
    parts = mask.image.getpalette("RGB") or []
    parts = [*parts, *[0] * (3 * 256 - len(parts))]
    return tuple((parts[at], parts[at + 1], parts[at + 2]) for at in range(0, 3 * 256, 3))


def as_photographed(mask: Read, photo: Read, paths: tuple[Path, Path], *, what: str) -> NDArray[Any]:
    """A mask's pixels as its photograph is seen, by their sizes where the photograph is turned and the mask says nothing.

    A mask that was drawn on the photograph as it is seen has its sides; one that was drawn on it as it lies in the file has
    them the other way round, and is turned along. DatasetError where sizes do not tell.
    """
    if mask.orientation != 1 or photo.orientation == 1:
        return mask.pixels
    along = turned(mask.pixels, photo.orientation)
    seen = photo.pixels.shape[:2]
    fits = [pixels for pixels in (mask.pixels, along) if pixels.shape == seen]
    if len(fits) == 2 and not np.array_equal(fits[0], fits[1]):
        raise DatasetError(
            f"the image {paths[0]} is turned by its EXIF orientation ({photo.orientation}), and its {what} {paths[1]} says "
            "nothing of the kind: it may have been drawn on the image as it is seen, or as it lies in the file. Save the "
            "image upright (PIL.ImageOps.exif_transpose), and the mask as it lies on that."
        )
    return fits[0] if fits else mask.pixels


def _check_opaque(mask: Opened) -> None:
    """Raise DatasetError for a mask in which anything is transparent: its colour there may be anything."""
    if mask.is_transparent and int(np.asarray(mask.image.convert("RGBA"))[..., 3].min()) < 255:
        raise DatasetError(
            f"the mask {mask.path} is transparent in places, and nothing says what that means. Save it opaque, with the "
            "colour or number of a class, or of what does not count, in every pixel."
        )


def _packed(pixels: Bytes) -> NDArray[np.uint32]:
    """A colour as one number."""
    parts = pixels.astype(np.uint32)
    return np.asarray(parts[..., 0] << 16 | parts[..., 1] << 8 | parts[..., 2])
