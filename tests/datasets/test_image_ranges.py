"""Which value is white in images of more than 8 bits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from deepsup.datasets.image_ranges import Extremes, Ranges, fitted
from deepsup.errors import DatasetError

A, B = Path("a.png"), Path("b.png")


@pytest.mark.parametrize(
    ("high", "white"), [(0, 255), (255, 255), (256, 1023), (3071, 4095), (4095, 4095), (4096, 16383), (65535, 65535)]
)
def test_whole_numbers_have_the_fewest_bits_that_hold_them_all(high: int, white: int) -> None:
    assert fitted([Extremes(A, 0, 3, False), Extremes(B, 0, high, False)]) == Ranges(whole=white)


@pytest.mark.parametrize(("high", "white"), [(0.2, 1), (1, 1), (128, 255), (255, 255)])
def test_floats_reach_one_or_255(high: float, white: float) -> None:
    assert fitted([Extremes(A, 0, high, True)]) == Ranges(real=white)


def test_both_have_ranges_of_their_own_and_none_has_none() -> None:
    assert fitted([Extremes(A, 0, 4000, False), Extremes(B, 0, 1, True)]) == Ranges(4095, 1.0)
    assert fitted([]) == Ranges()


def test_sixteen_bit_colours_must_use_their_upper_bits() -> None:
    assert fitted([Extremes(A, 0, 0x9F, False, cut=True)]) == Ranges(whole=65535)
    with pytest.raises(DatasetError, match=r"a\.png has 16-bit colours.*0 to 4095 \(12 bits\)"):
        fitted([Extremes(A, 0, 0x0F, False, cut=True)])


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (Extremes(A, -5, 3, False), r"a\.png holds values from -5 to 3: below 0"),
        (Extremes(A, 0, 65536, False), r"a\.png holds 65536, more than 16 bits"),
        (Extremes(A, 0, 3.7, True), r"largest of the floats in the images is 3\.7, in a\.png: neither 1 nor 255"),
        (Extremes(A, 0, 4095, True), r"is 4095, in a\.png"),
        (Extremes(A, -0.5, 1, True), r"values from -0\.5 to 1"),
        (Extremes(A, math.nan, math.nan, True), r"values from nan to nan: below 0 or not finite"),
        (Extremes(A, 0, math.inf, True), r"to inf"),
    ],
)
def test_where_nothing_says_what_is_white_the_file_is_named(file: Extremes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        fitted([Extremes(B, 0, 1, file.real), file])


def test_bytes_are_rounded() -> None:
    values = np.arange(4096, dtype=np.uint16)
    assert (Ranges(whole=4095).as_bytes(values, A) == np.rint(values.astype(float) * 255 / 4095)).all()
    assert Ranges(real=1.0).as_bytes(np.array([0, 0.2, 1], np.float32), A).tolist() == [0, 51, 255]


@pytest.mark.parametrize("values", [np.array([0, 4096]), np.array([-1, 5])])
def test_a_value_outside_of_the_range_is_refused(values: np.ndarray) -> None:
    with pytest.raises(DatasetError, match=r"a\.png holds values from .* outside of 0 to 4095"):
        Ranges(whole=4095).as_bytes(values, A)
    with pytest.raises(DatasetError, match=r"outside of 0 to 1,"):
        Ranges(real=1.0).as_bytes(np.array([0, np.nan], np.float32), A)
