"""Augmentation of a whole batch at once, on the device that holds it: images and whole random numbers in, images out.

Nothing here draws a number or waits for the device: the numbers are drawn beforehand, an epoch at a time, on the CPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional

from deepsup.errors import ConfigError
from deepsup.specs import FLAG, Limit, Registry

RANGE = 2**31
"""Draws are whole numbers from 0 up to this."""

# Where in a row of draws each number stands; a view without colours or a hole does not draw what it does not need.
_DOWN, _RIGHT, _MIRROR, _HOLE_Y, _HOLE_X, _LIGHT, _CONTRAST, _SATURATION, _HUE, _COLOURED, _GREY, _OPERATED = range(12)

_PADDING = 4
_CUTOUT = 16
# SimCLR's colours at the strength that CDS's released code has: ColorJitter(0.4, 0.4, 0.4, 0.1) of 80 % of the images,
# and no colour at all in 20 %.
_STRENGTH, _SHIFT, _SHARE_COLOURED, _SHARE_GREY = 0.4, 0.1, 0.8, 0.2


@dataclass(frozen=True)
class View:
    """What one view of an image goes through: padded, cropped, mirrored, coloured, with a hole in it.

    `hole` is the side in pixels of the square that is cut out (0: none), filled with black or with the mean of the
    data, which is 0 once images are normalised.
    """

    padding: int = _PADDING
    edge: Literal["black", "grey", "reflect"] = "black"
    mirror: bool = True
    colours: bool = False
    hole: int = 0
    hole_fill: Literal["mean", "black"] = "mean"
    operations: int = 0
    magnitude: int = 9

    @property
    def draws(self) -> int:
        """How many numbers an image of this view needs."""
        if self.operations:
            return _OPERATED + 1
        return _GREY + 1 if self.colours else _HOLE_X + 1 if self.hole else _MIRROR + 1


Views = tuple[View, ...]
Side = Annotated[int, Limit("0 or more whole pixels", lambda v: type(v) is int and v >= 0)]
Hole = Annotated[int, Limit("1 or more whole pixels", lambda v: type(v) is int and v >= 1)]
Flag = Annotated[bool, FLAG]
Magnitude = Annotated[int, Limit("a whole number from 0 to 30", lambda v: type(v) is int and 0 <= v <= 30)]

AUGMENTATIONS: Registry[Callable[..., Views]] = Registry("augmentation", ConfigError)


@AUGMENTATIONS.register
def none() -> Views:
    """Images as they are."""
    return ()


@AUGMENTATIONS.register
def standard(*, padding: Side = _PADDING, mirror: Flag = True) -> Views:
    """Padded with black, cropped at random, half of them mirrored: He et al. 2016, section 4.2."""
    return (View(padding=padding, mirror=mirror),)


@AUGMENTATIONS.register
def reflect(*, padding: Side = _PADDING, mirror: Flag = True) -> Views:
    """As `standard`, padded by reflection: Wide ResNet's and DKS's code for CIFAR."""
    return (View(padding=padding, mirror=mirror, edge="reflect"),)


@AUGMENTATIONS.register
def cutout(*, length: Hole = _CUTOUT, padding: Side = _PADDING, mirror: Flag = True) -> Views:
    """`standard` and a square of `length` pixels filled with the mean, around any pixel: DeVries and Taylor 2017.

    Their lengths: 16 on CIFAR-10, 8 on CIFAR-100, 20 on SVHN (there with padding=0, mirror=False).
    """
    return (View(padding=padding, mirror=mirror, hole=length),)


@AUGMENTATIONS.register
def randaugment(
    *, operations: Hole = 2, magnitude: Magnitude = 9, padding: Side = _PADDING, mirror: Flag = True
) -> Views:
    """`standard` and `operations` random changes of colour or place: RandAugment (Cubuk et al. 2020), by torchvision.

    One image after the other, where all else is done to a batch at once.
    """
    return (View(padding=padding, mirror=mirror, operations=operations, magnitude=magnitude),)


@AUGMENTATIONS.register
def contrastive(*, length: Hole = _CUTOUT, padding: Side = _PADDING) -> Views:
    """The pair of views in the released CIFAR code of contrastive deep supervision (Zhang et al. 2022).

    The first is padded with grey and has a black hole, the second has its colours changed. Deviations: brightness,
    contrast, saturation and hue change in this order, where torchvision's ColorJitter shuffles them for each image, and
    in floats, where PIL rounds after each.
    """
    return (
        View(padding=padding, edge="grey", hole=length, hole_fill="black"),
        View(padding=padding, colours=True),
    )


def parse(augment: str) -> Views:
    """`"cutout(length=8)"` as the views it stands for: none, one that all views share, or a pair.

    Raises `ConfigError` for a name or an option that does not exist, and for a value that is no size in pixels.
    """
    name, options = AUGMENTATIONS.read(augment)
    return AUGMENTATIONS[name](**options)


def fitting(views: Views, *, side: int, augment: str) -> Views:
    """The views again, or `ConfigError` where images of that side have no room for them."""
    for view in views:
        if view.hole >= side:
            raise ConfigError(
                f"augment={augment!r} would cut out squares of {view.hole} pixels from images of {side}: nothing would be "
                f"left of some. Use a smaller length, such as {side // 2}."
            )
        if view.edge == "reflect" and view.padding >= side:
            raise ConfigError(f"augment={augment!r} cannot reflect {view.padding} pixels of images of {side}.")
    return views


def crop_and_mirror(images: Tensor, draws: Tensor, view: View) -> Tensor:
    """Pad, cut out a window of the original size at random, mirror half of the images: `(N, C, H, H)` to the same.

    Example: `crop_and_mirror(torch.rand(2, 3, 32, 32), torch.randint(0, 2**31, (2, 3)), View())`.

    `draws` are whole numbers of at least 0, `(N, 3)` or wider: row offset, column offset and mirroring are the
    remainders of the first three. One gather for the whole batch.
    """
    side, padding = images.shape[-1], view.padding
    steps = torch.arange(side, device=images.device)
    down, right = (draws[:, which, None] % (2 * padding + 1) for which in (_DOWN, _RIGHT))
    across = torch.where(draws[:, _MIRROR, None] % 2 == 1, steps.flip(0), steps) if view.mirror else steps
    rows, columns = steps + down, across + right
    if view.edge == "reflect":  # folded back by their indices, since padding by reflection knows no bytes
        rows, columns = (side - 1 - (side - 1 - (at - padding).abs()).abs() for at in (rows, columns))
    elif padding:
        images = functional.pad(images, (padding,) * 4, value=_grey(images) if view.edge == "grey" else 0)
    places = (rows[:, :, None] * images.shape[-1] + columns[:, None, :]).flatten(1)
    places = places[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, places).view(*images.shape[:2], side, side)


def operated(images: Tensor, draws: Tensor, view: View) -> Tensor:
    """Every image changed by `view.operations` of RandAugment, which its draw chooses; bytes, or floats in 0..1."""
    change = importlib.import_module("torchvision.transforms.v2").RandAugment(view.operations, view.magnitude)
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, draw in zip(images, draws[:, _OPERATED].tolist(), strict=True):
            torch.default_generator.manual_seed(draw)
            changed.append(change(image))
    return torch.stack(changed)


def hole(draws: Tensor, *, side: int, length: int) -> Tensor:
    """Where images of that side are cut out, `(N, 1, side, side)`: a square around any pixel, less what is outside."""
    steps = torch.arange(side, device=draws.device)
    down, right = (draws[:, which, None] % side - length // 2 for which in (_HOLE_Y, _HOLE_X))
    rows, columns = ((steps >= first) & (steps < first + length) for first in (down, right))
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def coloured(pixels: Tensor, draws: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of most images changed, some without colour; float pixels in 0..1.

    `pixels` are `(N, C, H, W)` with C = 3, or 1: grey images have no saturation and no hue to change.
    """
    light, contrast, saturation = (
        1 - _STRENGTH + 2 * _STRENGTH * _share(draws, which) for which in (_LIGHT, _CONTRAST, _SATURATION)
    )
    changed = (pixels * light).clamp(0, 1)
    changed = _blended(changed, grey(changed).mean((1, 2, 3), keepdim=True), contrast)
    changed = _blended(changed, grey(changed), saturation)
    if pixels.shape[1] == 3:
        changed = hue_shifted(changed, _SHIFT * (2 * _share(draws, _HUE) - 1))
    changed = torch.where(_share(draws, _COLOURED) < _SHARE_COLOURED, changed, pixels)
    return torch.where(_share(draws, _GREY) < _SHARE_GREY, grey(changed), changed)


def grey(pixels: Tensor) -> Tensor:
    """Luma of RGB images by ITU-R 601, `(N, 1, H, W)`; grey images as they are."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = torch.split(pixels, 1, 1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def hue_shifted(pixels: Tensor, shift: Tensor) -> Tensor:
    """RGB images `(N, 3, H, W)` in 0..1 with their hue moved by `shift`, `(N, 1, 1, 1)`, in turns of the colour wheel."""
    value, chroma = pixels.amax(1, keepdim=True), pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True)
    red, green, blue = torch.split(pixels, 1, 1)
    scale = torch.where(chroma > 0, chroma, 1)
    sixth = torch.where(value == green, (blue - red) / scale + 2, (red - green) / scale + 4)
    sixth = torch.where(value == red, (green - blue) / scale, sixth) + 6 * shift
    # Each channel is at the value for two sixths of the wheel and ramps down and up beside them.
    turned = (sixth + torch.arange(5, 0, -2, device=pixels.device).view(1, 3, 1, 1)) % 6
    return value - chroma * torch.minimum(turned, 4 - turned).clamp(0, 1)


def _blended(pixels: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return (share * pixels + (1 - share) * other).clamp(0, 1)


def _share(draws: Tensor, which: int) -> Tensor:
    """A draw as a fraction of its range, one an image: `(N, 1, 1, 1)`."""
    return (draws[:, which] / RANGE).view(-1, 1, 1, 1)


def _grey(images: Tensor) -> float:
    return 128 if images.dtype == torch.uint8 else 128 / 255
