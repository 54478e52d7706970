"""What images go through that stay whole, because a part of them need not show what their labels or numbers are about."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from deepsup import specs
from deepsup.errors import ConfigError

Transform = Callable[[Any], Tensor]
Recipes = specs.Registry[Callable[..., tuple[Transform, ...]]]

WHOLE: Recipes = specs.Registry("augmentation", ConfigError)


@WHOLE.register
def none(size: int) -> tuple[Transform, ...]:
    """Resized to a square, whatever their shape."""
    v2 = _v2()
    return (v2.Compose([v2.Resize((size, size)), v2.PILToTensor()]),)


@WHOLE.register
def flips(size: int) -> tuple[Transform, ...]:
    """The same, half of them mirrored left to right."""
    v2 = _v2()
    return (v2.Compose([v2.Resize((size, size)), v2.RandomHorizontalFlip(), v2.PILToTensor()]),)


def _v2() -> Any:
    return importlib.import_module("torchvision.transforms.v2")
