"""Numbers as a reader wants them."""

from __future__ import annotations

import math

import pytest

from deepsup.reports import formats


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formats.count(999), "999"),
        (formats.count(103_434), "103 k"),
        (formats.count(9_996), "10.0 k"),
        (formats.count(999_700), "1.00 M"),
        (formats.duration(14.83), "14.8 s"),
        (formats.duration(725), "12 min 05 s"),
        (formats.duration(7_325), "2 h 02 min"),
        (formats.magnitude(1.23e-7), "1.2e-7"),
        (formats.magnitude(0.0), "0"),
        (formats.points(-0.00001), "0.0"),
        (formats.percent(math.nan), formats.NONE),
        (formats.share(0.385), "38.5 %"),
        (formats.share(None), formats.NONE),
        (formats.shape([16, 8, 8]), "16 x 8 x 8"),
        (formats.shape(None), formats.NONE),
        (formats.epochs([]), formats.NONE),
        (formats.epochs([3, None]), "3, never"),
        (formats.epochs([3, 4, 5, 6, 7, None]), "median 5 (5 of 6)"),
        (formats.size(16_384), "16.0 KiB"),
        (formats.times(1.0), "1.0x"),
        (formats.strength(0.4), "0.4"),
        (formats.strength(0.0999), "0.1"),
        (formats.strength(12.34), "12"),
        (formats.strength(63_425), "63,000"),
        (formats.strength(3e-5), "3e-5"),
        (formats.strength(math.nan), formats.NONE),
        (formats.moment("2026-11-22T03:07:44Z"), "2026-11-22 03:07 UTC"),
        (formats.moment(0), "1970-01-01 00:00 UTC"),
        (formats.moment(None), ""),
        (formats.added(0.176), "+17.6 %"),
        (formats.added(0.0001), "under 0.1 %"),
        (formats.short("conv1"), "conv1"),
        (formats.short("features.denseblock1.denselayer12.conv1"), "…denselayer12.conv1"),
    ],
)
def test_numbers_are_spelled_one_way(text: str, expected: str) -> None:
    assert text == expected
