"""A query beside what was found, as one picture: a row an output, the nearest first, framed by whether it is right.

Green with a tick is right, red with a cross is wrong, so that no colour has to be told; grey is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from deepsup.specs import require

_need = partial(require, purpose="a picture of matches", install="deepsup[report]")

HEIGHT: Final = 128
"""Of every image in pixels."""

RIGHT, WRONG, UNKNOWN = (0, 135, 90), (200, 60, 20), (140, 140, 140)
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_FRAME, _GAP, _LINE, _BADGE = 4, 8, 18, 20


class Found(NamedTuple):
    """An image that was found: its pixels, uint8 (H, W, 3), how far it is, and whether it is right, None if not known."""

    pixels: Any
    distance: float
    right: bool | None


def picture(query: Any, rows: Mapping[str, Sequence[Found]]) -> Any:
    """Draw the pixels (H, W, 3) of a query at the left, and a row of what each output found; an image of Pillow's."""
    image, draw = _need("PIL.Image"), _need("PIL.ImageDraw")
    left = _scaled(query)
    tiles = {name: [(_scaled(one.pixels), one) for one in row] for name, row in rows.items()}
    widest = max([left.width, *(tile.width for row in tiles.values() for tile, _ in row)]) + 2 * _FRAME
    across = 1 + max((len(row) for row in tiles.values()), default=0)
    tall = 2 * _LINE + HEIGHT + 2 * _FRAME + _GAP
    sheet = image.new("RGB", (across * (widest + _GAP) + _GAP, max(1, len(tiles)) * tall + _GAP), _PAPER)
    pen = draw.Draw(sheet)
    font = _need("PIL.ImageFont").load_default(size=13)
    text = partial(pen.text, font=font, fill=_INK)
    text((_GAP, _GAP), "query")
    sheet.paste(left, (_GAP + _FRAME, _GAP + _LINE + _FRAME))
    for i, (name, row) in enumerate(tiles.items()):
        top = _GAP + i * tall
        text((2 * _GAP + widest, top), name)
        for k, (tile, one) in enumerate(row, 1):
            x = _GAP + k * (widest + _GAP)
            _framed(sheet, pen, tile, one, (x, top + _LINE))
            text(
                (x + (tile.width + 2 * _FRAME) // 2, top + tall - _GAP - _LINE + 2), f"{one.distance:.3f}", anchor="ma"
            )
    return sheet


def _framed(sheet: Any, pen: Any, tile: Any, one: Found, at: tuple[int, int]) -> None:
    """An image in its frame, with a tick or a cross in the corner."""
    x, y = at
    colour = UNKNOWN if one.right is None else RIGHT if one.right else WRONG
    pen.rectangle((x, y, x + tile.width + 2 * _FRAME - 1, y + tile.height + 2 * _FRAME - 1), fill=colour)
    sheet.paste(tile, (x + _FRAME, y + _FRAME))
    if one.right is None:
        return
    x, y = x + tile.width + 2 * _FRAME - _BADGE, y + tile.height + 2 * _FRAME - _BADGE
    pen.rectangle((x, y, x + _BADGE - 1, y + _BADGE - 1), fill=colour)
    if one.right:
        pen.line([(x + 4, y + 10), (x + 8, y + 15), (x + 16, y + 5)], fill=_PAPER, width=3, joint="curve")
        return
    for stroke in ([(x + 5, y + 5), (x + 14, y + 14)], [(x + 14, y + 5), (x + 5, y + 14)]):
        pen.line(stroke, fill=_PAPER, width=3)


def _scaled(pixels: Any) -> Any:
    """Of one height, its shape kept; large pixels where it was small."""
    image = _need("PIL.Image")
    made = image.fromarray(_need("numpy").ascontiguousarray(pixels))
    size = (max(1, round(made.width * HEIGHT / made.height)), HEIGHT)
    return made.resize(size, image.Resampling.LANCZOS if made.height > HEIGHT else image.Resampling.BICUBIC)
