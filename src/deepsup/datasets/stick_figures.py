"""Figures that are drawn, for searches without anybody's picture: who it is say the colours of shirt and trousers.

A camera changes brightness and hue of all that it sees; size, place, step and background change from image to image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deepsup.datasets.splits import generator
from deepsup.datasets.transforms import hue_shifted

SHAPE = (64, 32)
_AT_ONCE = 256  # images; the memory of drawing
_HUES, _SHADES = 8, 3  # of clothes: so few that many wear the same shirt


class Figures(NamedTuple):
    """Images, and who and which camera it is."""

    images: Tensor  # (N, 3, *SHAPE), uint8
    identities: Tensor  # (N,), from `first` on
    cameras: Tensor  # (N,), from 1


def drawn(first: int, count: int, *, cameras: int, images: int, seed: int, halved: bool = False) -> Figures:
    """`images` of each of `count` figures on each camera, the figures from `first` on; `halved` shows parts of them alone."""
    who = torch.arange(first, first + count).repeat_interleave(cameras * images)
    where = torch.arange(1, cameras + 1).repeat_interleave(images).repeat(count)
    source = generator("figures", seed, first, count, cameras, images)
    chance = torch.rand(len(who), 12, generator=source)
    clothes = torch.stack([_clothes(figure, seed) for figure in range(first, first + count)])[who - first]
    noise = torch.randn(len(who), 3, *SHAPE, generator=source)
    parts = zip(*(torch.split(t, _AT_ONCE) for t in (chance, clothes, noise, where)), strict=True)
    pixels = [_seen(_painted(c, worn, halved) + 0.04 * n, w, seed) for c, worn, n, w in parts]
    return Figures((255 * torch.cat(pixels)).round().to(torch.uint8), who, where)


def _clothes(figure: int, seed: int) -> Tensor:
    """Colours of shirt and trousers (2, 3): two of few hues and shades, a little off."""
    source = generator("clothes", seed, figure)
    hue = torch.randint(0, _HUES, (2,), generator=source) / _HUES + 0.03 * torch.rand(2, generator=source)
    shade = torch.randint(0, _SHADES, (2,), generator=source) / (_SHADES - 1)
    pure = torch.tensor([[0.0, 0.5, 1.0]]).expand(2, 3)  # any hue; it is turned to the one that is meant
    bright = pure * (0.5 + 0.4 * shade[:, None]) + 0.1
    return hue_shifted(bright.view(2, 3, 1, 1), hue.view(2, 1, 1, 1)).view(2, 3)


def _painted(chance: Tensor, clothes: Tensor, halved: bool) -> Tensor:
    """Images (N, 3, *SHAPE) as they are without a camera, of numbers in [0, 1) (N, 12) and colours (N, 2, 3)."""
    numbers = chance.view(*chance.shape, 1, 1).unbind(1)
    height, width = SHAPE
    down = (torch.arange(height)[:, None] + 0.5) / height  # 0 to 1 from top to bottom
    across = (torch.arange(width)[None] + 0.5) / height  # in the same unit
    size, top = 0.8 + 0.15 * numbers[0], 0.02 + 0.08 * numbers[1]
    y = (down - top) / size + (
        0.9 * (numbers[10] - 0.5) if halved else 0.0
    )  # of the figure: 0 the head's top, 1 the feet
    x = (across - 0.25 - 0.06 * (numbers[2] - 0.5)) / size
    broad, step, lean = 0.10 + 0.03 * numbers[3], 0.10 * numbers[4], 0.05 * (numbers[5] - 0.5)
    x = x - lean * (1 - y)
    head = (x / 0.055) ** 2 + ((y - 0.08) / 0.075) ** 2 < 1
    arms = (x.abs() - broad - 0.05 * numbers[6] - 0.12 * (y - 0.18)).abs() < 0.025
    shirt = ((x.abs() < broad) | (arms & (y < 0.5))) & (y > 0.16) & (y < 0.52)
    legs = (x.abs() - 0.045 - step * (y - 0.5)).abs() < 0.045
    trousers = legs & (y >= 0.52) & (y < 0.98)
    ground = torch.stack([numbers[7], numbers[8], numbers[9]], 1) * 0.5 + 0.3  # any colour, greyish
    image = ground * (0.7 + 0.3 * down) + 0.15 * torch.sin(20 * across + 6 * numbers[11])[:, None]
    for shown, colour in ((head, torch.full((len(chance), 3), 0.6)), (shirt, clothes[:, 0]), (trousers, clothes[:, 1])):
        image = torch.where(shown[:, None], colour.view(-1, 3, 1, 1), image)
    return image


def _seen(images: Tensor, cameras: Tensor, seed: int) -> Tensor:
    """Images in 0..1 as their cameras give them: brightness by a factor of 0.55 to 1.2, hue by up to a tenth of a turn."""
    each = [torch.rand(2, generator=generator("camera", seed, camera)) for camera in cameras.tolist()]
    light, hue = torch.stack(each).view(-1, 2, 1, 1, 1).unbind(1)
    return (hue_shifted(images.clamp(0, 1), 0.2 * (hue - 0.5)) * (0.55 + 0.65 * light)).clamp(0, 1)
