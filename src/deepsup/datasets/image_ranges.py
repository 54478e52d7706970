"""Images of more than 8 bits: which of their values is white, and how they become bytes.

A 16-bit file does not say whether its camera had 10, 12 or 16 bits, and a float says nothing at all. So the range is one
for all images of a data set, read off the largest value in any of them, and kept with a run for the images it predicts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepsup.errors import DatasetError

_BITS = (8, 10, 12, 14, 16)
_WHITE_FLOATS = {1.0: 0.0, 255.0: 127.0}  # white, and above what the largest value of a set must be
UPPER = 256
"""What one step is worth in 16-bit colours, of which Pillow keeps the upper 8 bits."""


class Extremes(NamedTuple):
    """The smallest and the largest value in a file of more than 8 bits."""

    path: Path
    low: float
    high: float
    real: bool  # floats
    cut: bool = False  # 16-bit colours, of which the upper 8 bits are there


@dataclass(frozen=True)
class Ranges:
    """What stands for white, in whole numbers and in floats; None where a data set has no such images. 0 is black."""

    whole: int | None = None
    real: float | None = None

    def as_bytes(self, values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
        """Values `(H, W)` of whole numbers or floats as 0 to 255, rounded; DatasetError for one outside of the range."""
        white = self.real if (floats := values.dtype.kind == "f") else self.whole
        if white is None:
            raise DatasetError(
                f"the image {path} has {'floats' if floats else 'whole numbers of more than 8 bits'}, and no image of the "
                "data set has such, so that nothing says which value is white. Scale it to 0..255 yourself and save it as "
                "an 8-bit PNG."
            )
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= white):  # also where there is a NaN
            raise DatasetError(
                f"the image {path} holds values from {low:g} to {high:g}, outside of 0 to {white:g}, the range of the data "
                "set's images. Scale it as they are."
            )
        return np.asarray(np.rint(values.astype(np.float64) * (255 / white)), np.uint8)

    def check_cut(self, path: Path) -> None:
        """Raise DatasetError for a file with 16-bit colours where those of the data set do not use all 16 bits."""
        if self.whole != 2**16 - 1:
            raise DatasetError(
                f"the image {path} has 16-bit colours, of which the upper 8 bits are read, and "
                f"{self}. Scale it to 0..255 yourself and save it as an 8-bit PNG."
            )

    def __str__(self) -> str:
        whole = f"whole numbers from 0 to {self.whole} ({self.whole.bit_length()} bits)" if self.whole else ""
        real = f"floats from 0 to {self.real:g}" if self.real else ""
        known = " and ".join(filter(None, (whole, real)))
        return f"images of more than 8 bits are read as {known}" if known else "the data set has 8-bit images alone"


def fitted(files: Iterable[Extremes]) -> Ranges:
    """The ranges that hold all values of a data set: the fewest of 8, 10, 12, 14 or 16 bits; floats to 1, or to 255.

    Example: 16-bit files whose largest value is 3071 are taken for 12-bit images, 0 to 4095. DatasetError, with the file's
    name, where values are negative, not finite, above 16 bits, or floats of which nothing says what is white.
    """
    whole, real = _Largest(), _Largest()
    for file in files:
        if not file.low >= 0 or not np.isfinite(file.high):
            raise DatasetError(
                f"the image {file.path} holds values from {file.low:g} to {file.high:g}: below 0 or not finite, nothing "
                "says which is black and which is white. Scale all images to 0..1 (floats) or 0..65535 (16 bits)."
            )
        (real if file.real else whole).see(file)
    white = next((2**bits - 1 for bits in _BITS if whole.high < 2**bits), None)
    if white is None:
        raise DatasetError(
            f"the image {whole.path} holds {whole.high:g}, more than 16 bits: nothing says which value is white. Scale all "
            "images to 0..65535 and save them with 16 bits."
        )
    ranges = Ranges(white if whole.path else None, _white_float(real) if real.path else None)
    if whole.cut:
        ranges.check_cut(whole.cut)
    return ranges


class _Largest:
    """The largest value so far, and where it was; `cut` is a file with 16-bit colours."""

    def __init__(self) -> None:
        self.high, self.path, self.cut = 0.0, None, None  # type: float, Path | None, Path | None

    def see(self, file: Extremes) -> None:
        high = file.high * UPPER + UPPER - 1 if file.cut else file.high
        if self.path is None or high > self.high:
            self.high, self.path = high, file.path
        self.cut = self.cut or (file.path if file.cut else None)


def _white_float(real: _Largest) -> float:
    for white, least in _WHITE_FLOATS.items():
        if least <= real.high <= white:
            return white
    raise DatasetError(
        f"the largest of the floats in the images is {real.high:g}, in {real.path}: neither 1 nor 255 can be meant for "
        "white. Scale all images to 0..1."
    )
