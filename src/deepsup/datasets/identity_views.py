"""What images of identities go through: resized whole, and in training mirrored, shifted and partly erased.

The recipe everybody starts from (Luo et al. 2019) is `erasing`; all of it by torchvision.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from deepsup import specs
from deepsup.datasets.normalisation import IMAGENET_MEAN
from deepsup.datasets.whole_images import Transform
from deepsup.errors import ConfigError

Shape = tuple[int, int]

_PIXELS = specs.Limit("a whole number of pixels, at least 0", lambda v: specs.WHOLE.fits(v) and v >= 0)
_PART = specs.between(0, 1)


def _is_range(value: Any) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and all(specs.is_number(v) and v > 0 for v in value) and bool(value[0] <= value[1])


_RANGE = specs.Limit("two numbers above 0, the smaller first, such as (0.3, 3.3)", _is_range)
_AREA = specs.Limit(
    "two shares of the area above 0 and up to 1, the smaller first", lambda v: _is_range(v) and v[1] <= 1
)

VIEWS: specs.Registry[Callable[..., list[Any]]] = specs.Registry("augmentation", ConfigError)


@VIEWS.register
def none(shape: Shape) -> list[Any]:
    """Nothing."""
    return []


@VIEWS.register
def flips(shape: Shape) -> list[Any]:
    """Half of them mirrored left to right."""
    return [_v2().RandomHorizontalFlip()]


@VIEWS.register
def standard(
    shape: Shape, *, padding: Annotated[int, _PIXELS] = 10, mirror: Annotated[bool, specs.FLAG] = True
) -> list[Any]:
    """Mirrored, and cut out of the image with `padding` black pixels all round."""
    return [*(flips(shape) if mirror else []), _v2().RandomCrop(shape, padding=padding)]


@VIEWS.register
def erasing(
    shape: Shape,
    *,
    padding: Annotated[int, _PIXELS] = 10,
    mirror: Annotated[bool, specs.FLAG] = True,
    share: Annotated[float, _PART] = 0.5,
    area: Annotated[Sequence[float], _AREA] = (0.02, 0.4),
    aspect: Annotated[Sequence[float], _RANGE] = (0.3, 3.3),
) -> list[Any]:
    """The same, and in a `share` of them a rectangle painted over with the mean colour (Zhong et al. 2020)."""
    mean = (255 * IMAGENET_MEAN).round().int().tolist()
    hole = _v2().RandomErasing(share, scale=tuple(area), ratio=tuple(aspect), value=mean)
    return [*standard(shape, padding=padding, mirror=mirror), _v2().PILToTensor(), hole]


def view(augment: str, shape: Shape) -> Transform:
    """From a PIL image, or uint8 (3, H, W), to uint8 (3, *shape). Raises `ConfigError` for what there is not."""
    name, options = VIEWS.read(augment)
    v2 = _v2()
    made: Transform = v2.Compose([v2.Resize(shape, antialias=True), *VIEWS[name](shape, **options), v2.PILToTensor()])
    return made


def _v2() -> Any:
    return importlib.import_module("torchvision.transforms.v2")
