"""The one reader of images: of class folders, of images with masks, and of new images to predict.

What it does to them, for all alike:

- a photograph is turned as its EXIF orientation says, as every viewer shows it;
- grey becomes three equal channels, 1 bit is black and white, a palette its colours, CMYK Pillow's plain RGB;
- transparency lies on black;
- more than 8 bits become bytes by the range of the data set (`image_ranges`); of 16-bit colours the upper 8 bits count;
- one file is one image: several pages, or frames, are refused, but where a map's pages are said to be its channels.
"""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepsup.datasets.image_ranges import Extremes, Ranges
from deepsup.errors import DatasetError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".webp")
"""What the names of image files end with, in whatever case."""
_ORIENTATION = 0x0112
_DESCRIPTION = 270
_SIDEWAYS = 5  # from this orientation on height and width change places
_EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
_TRANSPARENT = {"LA", "La", "PA", "RGBA", "RGBa"}
_EIGHT_BITS_READ = Ranges()

Bytes = NDArray[np.uint8]


class Read(NamedTuple):
    """Pixels `(H, W, 3)` or `(H, W)`, turned as their file says; `orientation` is EXIF's number for that, 1 for upright."""

    pixels: NDArray[Any]
    orientation: int


@dataclass(frozen=True)
class Opened:
    """A file whose pixels are read. `orientation` is what it says; `pending` what is still to be done to its pixels."""

    path: Path
    image: Any  # PIL's
    orientation: int
    pending: int
    raw: str  # how pixels lie in the file, as Pillow calls it
    pages: int = 1  # that the file has

    @property
    def is_deep(self) -> bool:
        """Whether there is one number of more than 8 bits a pixel."""
        return str(self.image.mode).startswith(("I", "F"))

    @property
    def is_cut(self) -> bool:
        """Whether the file has 16-bit colours, of which Pillow keeps the upper 8 bits."""
        return not self.is_deep and ";16" in self.raw

    @property
    def is_transparent(self) -> bool:
        """Whether any pixel may be transparent."""
        return self.image.mode in _TRANSPARENT or (not self.is_deep and "transparency" in self.image.info)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as served."""
        height, width = self.image.height, self.image.width
        return (width, height) if self.pending >= _SIDEWAYS else (height, width)

    @property
    def extremes(self) -> Extremes:
        """The smallest and the largest value of any channel of colour; numbers where there is one a pixel."""
        mode = str(self.image.mode)
        if self.is_deep:  # Pillow knows no extremes of some kinds, and passes NaN over
            found = np.asarray(self.image)
        else:
            plain = mode in ("1", "L", "RGB")
            found = np.ravel((self.image if plain else _straight(self.image)).getextrema()[: None if plain else 3])
        return Extremes(self.path, float(np.min(found)), float(np.max(found)), mode == "F", self.is_cut)

    def check_kind(self) -> None:
        """Raise DatasetError for an image whose pixels are of a kind that is not read."""
        if not self.is_deep and self.image.mode not in _EIGHT_BITS:
            raise DatasetError(
                f"the image {self.path} has pixels of the kind {self.image.mode!r}, of which no colours are known. Save it as "
                "an 8-bit PNG in RGB."
            )

    def rgb(self, ranges: Ranges) -> Bytes:
        """Its pixels `(H, W, 3)`, turned."""
        self.check_kind()
        image = self.image
        if self.is_deep:
            grey = ranges.as_bytes(np.asarray(image), self.path)
            return turned(np.repeat(grey[..., None], 3, 2), self.pending)
        if self.is_cut:
            ranges.check_cut(self.path)
        return turned(_on_black(image) if self.is_transparent else np.array(image.convert("RGB")), self.pending)


def read_image(path: Path, ranges: Ranges = _EIGHT_BITS_READ) -> Read:
    """An image in RGB, and its orientation; DatasetError for a file that cannot be read."""
    opened_ = opened(path, "image")
    return Read(opened_.rgb(ranges), opened_.orientation)


def read_rgb(path: Path, ranges: Ranges = _EIGHT_BITS_READ) -> Bytes:
    """An image as `(H, W, 3)`; DatasetError for a file that cannot be read."""
    return read_image(path, ranges).pixels


def in_colour(path: Path, ranges: Ranges = _EIGHT_BITS_READ) -> Any:
    """The same as a PIL image."""
    return importlib.import_module("PIL.Image").fromarray(read_rgb(path, ranges))


def opened(path: Path, what: str) -> Opened:
    """A file with its pixels read; DatasetError, with its path, where that fails, or where it holds several images."""
    return _read(path, what, pixels=True)


def opened_pages(path: Path, what: str) -> list[Opened]:
    """The same of a file that may hold several images, in their order."""
    first = _read(path, what, pixels=True, page=0)
    return [first, *(_read(path, what, pixels=True, page=page) for page in range(1, first.pages))]


def header(path: Path, what: str) -> Opened:
    """A file of which the beginning alone is read."""
    return _read(path, what, pixels=False)


def size_in(path: Path) -> tuple[int, int]:
    """Height and width of an image as it is served, without its pixels being read."""
    return header(path, "image").size


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels `(H, W, ...)` as EXIF's orientation, 1 to 8, says that they are seen."""
    if orientation >= _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)  # 5: mirrored along the diagonal; the others are that, and a mirror or two
    rows = orientation in (3, 4, 7, 8)
    columns = orientation in (2, 3, 6, 7)
    return pixels[:: -1 if rows else 1, :: -1 if columns else 1].copy()


def _read(path: Path, what: str, *, pixels: bool, page: int | None = None) -> Opened:
    """All that is left to Pillow, so that all that it raises for a damaged file becomes a DatasetError with the path."""
    if not os.path.isfile(path):  # a pipe would be waited for, a device has no end
        absent = "is a link to nothing" if path.is_symlink() else "is not there"
        found = "is no regular file" if os.path.exists(path) else absent
        raise DatasetError(f"cannot read the {what} {path}: it {found}. Replace it by a file that opens.")
    pillow = importlib.import_module("PIL.Image")
    try:
        with path.open("rb") as file:
            image = pillow.open(file)
            pages = _pages(image)
            if page:
                image.seek(page)
            raw, before = repr(image.tile), _orientation(image)
            if pixels and (pages == 1 or page is not None):
                image.load()
            after = _orientation(image) if pixels else before
    except pillow.DecompressionBombError as error:
        reason = f"{error}. If it is no trap, raise PIL.Image.MAX_IMAGE_PIXELS, or cut it into pieces"
        raise DatasetError(f"cannot read the {what} {path}: {reason}.") from None
    except Exception as error:  # whatever a decoder stumbles over
        # What Pillow says of a file of another kind names an object, not a reason.
        other = "cannot identify image" in str(error)
        reason = "it is no image, or damaged at its beginning" if other else str(error) or repr(error)
        raise DatasetError(f"cannot read the {what} {path}: {reason}. Replace it by a file that opens.") from None
    if pages > 1 and page is None:
        kind = ".tif" if image.format == "TIFF" else ".png"  # PNG has no numbers that are not whole
        channels = " Where its pages are channels, set data.name=value-maps(pages='channels')." if what == "map" else ""
        raise DatasetError(
            f"the {what} {path} holds {pages} images, and one file is one {what}.{channels} Split it, with its counterpart in "
            f"the same order: from PIL import Image, ImageSequence; [page.save(f'{path.stem}-{{n:03}}{kind}') for n, page in "
            f"enumerate(ImageSequence.Iterator(Image.open('{path.name}')))]."
        )
    # Pillow turns TIFF while it reads and forgets that it had to; before that it states the sides of the turned image.
    done = (image.format == "TIFF") if not pixels else after != before
    return Opened(path, image, before, 1 if done else before, raw, pages)


def _pages(image: Any) -> int:
    """How many images a file holds; a photograph with previews or depth beside it (MPO) is one."""
    if image.format == "MPO":
        return 1
    if image.format == "TIFF":  # ImageJ keeps a large stack behind the header of its first page
        told = str(image.tag_v2.get(_DESCRIPTION, ""))
        stack = re.search(r"^images=(\d+)", told, re.MULTILINE) if told.startswith("ImageJ=") else None
        if stack:
            return int(stack[1])
    return int(getattr(image, "n_frames", 1))


def _orientation(image: Any) -> int:
    """EXIF's number, 1 where there is none, or none that makes sense."""
    try:
        said = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF beside good pixels: viewers show them as they lie
        return 1
    return said if said in range(1, 9) else 1


def _on_black(image: Any) -> Bytes:
    """Colours as far as they are opaque; what lies behind them is black."""
    pixels = np.asarray(_straight(image)).astype(np.uint32)
    return ((pixels[..., :3] * pixels[..., 3:] + 127) // 255).astype(np.uint8)


def _straight(image: Any) -> Any:
    """An image in RGBA, its colours not multiplied by how opaque they are."""
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    return (image.convert(straight) if straight else image).convert("RGBA")
