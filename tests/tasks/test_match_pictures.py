"""Tests of the picture of a query and what was found."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepsup.tasks.match_pictures import HEIGHT, RIGHT, UNKNOWN, WRONG, Found, picture


def grey(value: int, *, height: int = 64, width: int = 32) -> Any:
    return np.full((height, width, 3), value, dtype=np.uint8)


def has(drawn: Any, colour: tuple[int, int, int]) -> Any:
    return (np.asarray(drawn) == colour).all(2)


def test_what_is_right_is_framed_otherwise_than_what_is_wrong_and_also_without_colours() -> None:
    found = [Found(grey(200), 0.1, True), Found(grey(200), 0.25, False), Found(grey(200), 0.5, None)]
    drawn = {one.right: picture(grey(10), {"main": [one]}) for one in found}
    for right, colour in {True: RIGHT, False: WRONG, None: UNKNOWN}.items():
        seen = {c: bool(has(drawn[right], c).sum() > 500) for c in (RIGHT, WRONG, UNKNOWN)}
        assert seen == {c: c == colour for c in seen}
    shapes = [np.where(has(drawn[right], colour), 0, 255) for right, colour in ((True, RIGHT), (False, WRONG))]
    assert (shapes[0] != shapes[1]).sum() > 20  # tick and cross


def test_every_output_has_a_row_and_every_image_its_place_whatever_its_shape() -> None:
    rows = {name: [Found(grey(60 + k), 0.1 * k, True) for k in range(3)] for name in ("early", "main")}
    drawn = picture(grey(10, height=300, width=100), rows)
    tall = picture(grey(10, height=300, width=100), {"main": rows["main"]})
    assert drawn.height > 2 * HEIGHT
    assert drawn.width == tall.width
    assert drawn.height - tall.height > HEIGHT
    flat = grey(77, height=20, width=80)
    flat[..., 1] = 200
    wide = picture(grey(10), {"main": [Found(flat, 0.0, None)]})
    assert has(wide, (77, 200, 77)).sum() == HEIGHT * 4 * HEIGHT  # as wide as it was
    assert picture(grey(10), {"main": []}).height > HEIGHT
