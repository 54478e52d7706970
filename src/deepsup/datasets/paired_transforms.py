"""Augmentation of an image together with its labels: what moves the one moves the other, and labels stay exact.

Images are uint8 `(C, H, W)`, labels uint8 `(H, W)` with `VOID` where a pixel does not count. Nothing here draws a number:
the numbers come as a row of draws, whole numbers from 0 up to `RANGE`, one row a sample.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from deepsup.datasets.mask_files import VOID
from deepsup.datasets.transforms import RANGE
from deepsup.errors import ConfigError
from deepsup.specs import FLAG, Limit, Registry, between, is_number

# Where in a row of draws each number stands.
_DOWN, _RIGHT, _MIRROR, _TURN, _SCALE, _ROTATED, _ANGLE, _BLURRED = range(8)
DRAWS = _BLURRED + 1

# The published recipe turns and blurs half of the samples; its 5 x 5 blur has the deviation that OpenCV takes for 5.
_SHARE_ROTATED = 0.5
_BLUR_SIDE, _BLUR_SIGMA = 5, 1.1


class Pixels(NamedTuple):
    """An image, uint8 `(C, H, W)`, and its labels, uint8 `(H, W)`."""

    image: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Joint:
    """What a training sample goes through: scaled, rotated, blurred, cut out, mirrored, turned by right angles."""

    scale: tuple[float, float] | None = None
    rotate: float = 0.0
    blur: float = 0.0
    mirror: bool = False
    turns: bool = False

    @property
    def pads(self) -> bool:
        """Whether an image that is smaller than the patch is filled up with void; otherwise it is an error."""
        return self.scale is not None


def _is_range(value: Any) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and all(is_number(v) and 0.01 <= v <= 100 for v in value) and bool(value[0] <= value[1])


_RANGE = Limit("two numbers from 0.01 to 100, the smaller first, such as (0.5, 2.0)", _is_range)
_DEGREES = Limit("degrees from 0 to 180", between(0, 180).fits)
_PART = Limit("a share from 0 to 1", between(0, 1).fits)

AUGMENTATIONS: Registry[Callable[..., Joint]] = Registry("augmentation", ConfigError)


@AUGMENTATIONS.register
def none() -> Joint:
    """Patches as they are."""
    return Joint()


@AUGMENTATIONS.register
def standard(
    *,
    scale: Annotated[Sequence[float], _RANGE] = (0.5, 2.0),
    rotate: Annotated[float, _DEGREES] = 10.0,
    blur: Annotated[float, _PART] = 0.5,
    mirror: Annotated[bool, FLAG] = True,
) -> Joint:
    """PSPNet's recipe (hszhao/semseg): scaled at random, half of them rotated by up to `rotate` degrees, a share of
    `blur` blurred, half of them mirrored, cut out; what lies beyond the image is void.

    Differs from it in that an image is made smaller with antialiasing, rotated around the middle of the patch instead of
    the image's, and blurred within the patch: nothing is computed that the patch does not show.
    """
    return Joint(scale=(scale[0], scale[1]), rotate=rotate, blur=blur, mirror=mirror)


@AUGMENTATIONS.register
def flips(*, turns: Annotated[bool, FLAG] = True) -> Joint:
    """Mirrored left to right and, with `turns`, turned by 0, 90, 180 or 270 degrees: all eight ways to lay a square."""
    return Joint(mirror=True, turns=turns)


def parse(augment: str) -> Joint:
    """`"standard(rotate=0)"` as what it stands for; `ConfigError` for names, options and values that do not exist."""
    name, options = AUGMENTATIONS.read(augment)
    return AUGMENTATIONS[name](**options)


def warped(
    pixels: Pixels,
    draws: Sequence[int],
    joint: Joint,
    size: tuple[int, int],
    *,
    fill: Sequence[int],
    places: Tensor | None = None,
) -> Pixels:
    """A patch of that size at a scale and an angle, perhaps blurred; void, and `fill` in the image, beyond the edge.

    The patch is uniform among those that lie in the image, and in the middle where it is larger; or its centre is one of
    `places` (flat numbers of pixels). It is rotated around its own centre: only what it shows is computed.
    """
    height, width = pixels.labels.shape
    low, high = joint.scale or (1.0, 1.0)
    factor = low + (high - low) * draws[_SCALE] / RANGE
    angle = 0.0
    if joint.rotate and draws[_ROTATED] < _SHARE_ROTATED * RANGE:
        angle = joint.rotate * (2 * draws[_ANGLE] / RANGE - 1)
    if places is None:
        middle = tuple(
            _between(side, patch / factor, draws[which])
            for side, patch, which in ((height, size[0], _DOWN), (width, size[1], _RIGHT))
        )
    else:
        row, column = divmod(int(places[draws[_DOWN] % len(places)]), width)
        middle = row + 0.5, column + 0.5
    box = _box(size, angle)
    image, labels = _enlarged(pixels, (middle[0], middle[1]), factor, box, fill=fill)
    if angle:
        functional = importlib.import_module("torchvision.transforms.v2.functional")
        modes = functional.InterpolationMode
        image = functional.rotate(image, angle, interpolation=modes.BILINEAR, fill=[float(value) for value in fill])
        labels = functional.rotate(labels[None], angle, interpolation=modes.NEAREST, fill=float(VOID))[0]
    top, left = (box[0] - size[0]) // 2, (box[1] - size[1]) // 2
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    return Pixels(_blurred(image[:, rows, columns], draws, joint), labels[rows, columns])


def _between(side: int, patch: float, draw: int) -> float:
    """Where the middle of a patch lies along one side: anywhere that keeps it inside, else in the middle."""
    room = max(side - patch, 0.0)
    return (side - room) / 2 + room * draw / RANGE


def _box(size: tuple[int, int], angle: float) -> tuple[int, int]:
    """What holds a patch of that size after it was turned; larger by a whole number of pixels on each side."""
    sine, cosine = abs(math.sin(math.radians(angle))), abs(math.cos(math.radians(angle)))
    needed = size[0] * cosine + size[1] * sine, size[0] * sine + size[1] * cosine
    height, width = (side + 2 * math.ceil(max(need - side, 0) / 2) for side, need in zip(size, needed, strict=True))
    return height, width


def _enlarged(
    pixels: Pixels, middle: tuple[float, float], factor: float, box: tuple[int, int], *, fill: Sequence[int]
) -> Pixels:
    """The part around `middle` that makes `box` when it is enlarged by `factor`; beyond the image `fill` and void."""
    windows, inner, target = [], [], []
    for side, centre, length in zip(pixels.labels.shape, middle, box, strict=True):
        span = max(1, round(length / factor))
        first = round(centre - span / 2)
        start, stop = max(first, 0), min(first + span, side)
        begin = round((start - first) * length / span)  # below `length`, since `centre` lies in the image
        windows.append(slice(start, stop))
        inner.append(max(1, round((stop - first) * length / span) - begin))
        target.append(slice(begin, begin + inner[-1]))
    part = Pixels(pixels.image[:, windows[0], windows[1]], pixels.labels[windows[0], windows[1]])
    part = resized(part, tuple(inner))
    if tuple(inner) == box:
        return part
    image = torch.tensor(fill, dtype=torch.uint8)[:, None, None].repeat(1, *box)
    labels = torch.full(box, VOID, dtype=torch.uint8)
    image[:, target[0], target[1]], labels[target[0], target[1]] = part
    return Pixels(image, labels)


def _blurred(image: Tensor, draws: Sequence[int], joint: Joint) -> Tensor:
    if draws[_BLURRED] >= joint.blur * RANGE or min(image.shape[1:]) <= _BLUR_SIDE // 2:
        return image
    functional = importlib.import_module("torchvision.transforms.v2.functional")
    smooth: Tensor = functional.gaussian_blur(image, [_BLUR_SIDE] * 2, [_BLUR_SIGMA] * 2)
    return smooth


def resized(pixels: Pixels, size: tuple[int, ...]) -> Pixels:
    """At another height and width: the image bilinear with antialiasing, labels taken from the nearest pixel.

    "Nearest" is measured between the pixels' centres, as bilinear resizing does, so that the two stay aligned.
    """
    if size == tuple(pixels.labels.shape):
        return pixels
    functional = importlib.import_module("torchvision.transforms.v2.functional")
    modes = functional.InterpolationMode
    image = functional.resize(pixels.image, list(size), interpolation=modes.BILINEAR, antialias=True)
    labels = functional.resize(pixels.labels[None], list(size), interpolation=modes.NEAREST_EXACT)[0]
    return Pixels(image, labels)


def centres(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """The labelled pixels around which a patch of that size lies in the image, as places of its upper left corner.

    Places count row by row through the `(H - h + 1, W - w + 1)` corners that there are; int32.
    """
    height, width = labels.shape
    top, left = size[0] // 2, size[1] // 2
    inner = labels[top : height - size[0] + top + 1, left : width - size[1] + left + 1]
    return (inner != VOID).flatten().nonzero()[:, 0].to(torch.int32)


def cut(pixels: Pixels, draws: Sequence[int], size: tuple[int, int], *, places: Tensor | None = None) -> Pixels:
    """A patch of that size from anywhere in the image, or from one of `places` (see `centres`)."""
    height, width = pixels.labels.shape
    across = width - size[1] + 1
    if places is None or not len(places):
        top, left = draws[_DOWN] % (height - size[0] + 1), draws[_RIGHT] % across
    else:
        top, left = divmod(int(places[draws[_DOWN] % len(places)]), across)
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    return Pixels(pixels.image[:, rows, columns], pixels.labels[rows, columns])


def laid(pixels: Pixels, draws: Sequence[int], joint: Joint) -> Pixels:
    """Mirrored and turned by right angles, as drawn."""
    image, labels = pixels
    if joint.mirror and draws[_MIRROR] % 2:
        image, labels = image.flip(-1), labels.flip(-1)
    quarters = draws[_TURN] % 4 if joint.turns else 0
    if quarters:
        image, labels = image.rot90(quarters, (-2, -1)), labels.rot90(quarters, (-2, -1))
    return Pixels(image, labels)


def scaled_size(shape: tuple[int, int], size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of an image of that shape at `size`: exact, or the length of its shorter side."""
    if size is None:
        return shape
    if isinstance(size, tuple):
        return size
    shorter = min(shape)
    height, width = (size if side == shorter else math.floor(side * size / shorter + 0.5) for side in shape)
    return height, width
