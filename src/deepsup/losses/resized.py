"""Losses of the user's own on maps whose size is not the target's: MONAI's, segmentation-models-pytorch's, a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deepsup.errors import ConfigError, HeadError
from deepsup.losses.pixelwise import enlarge
from deepsup.losses.resizing import POLICIES, shrink, shrink_values
from deepsup.losses.torch_losses import kind_of


@dataclass(frozen=True)
class Resized:
    """A loss that meets its target at one size: `resized(DiceLoss(to_onehot_y=True, softmax=True))`.

    `resize` says how, as for ours: "enlarge" and "interpolate" the scores (N, C, *places) linearly to the target's places,
    "nearest", "area" and "preserve" the target to the scores'. A target of whole numbers is labels, (N, *places) or
    (N, 1, *places), and keeps its form; floats are values or labels (N, C, *places). `kinds` says what the loss reads, where
    nobody else does (see `predictions.KINDS`).
    """

    loss: Callable[..., Tensor]
    resize: str = "interpolate"
    kinds: tuple[str, ...] = ()
    first_axis: bool = field(default=True, init=False)  # the channels stand on axis 1

    def __post_init__(self) -> None:
        if self.resize not in ("enlarge", "interpolate", *POLICIES):
            listed = ", ".join(("enlarge", "interpolate", *POLICIES))
            raise ConfigError(f"resize={self.resize!r} is no way to bring two sizes together. Choose: {listed}.")
        known = kind_of(self.loss)
        if not self.kinds and known is not None:
            object.__setattr__(self, "kinds", (known,))

    @property
    def __name__(self) -> str:
        return str(getattr(self.loss, "__name__", type(self.loss).__name__))

    def __call__(self, prediction: Tensor, target: Tensor, **context: Any) -> Tensor:
        places = prediction.ndim - 2
        if not isinstance(target, Tensor) or target.ndim < places + 1 or places < 1:
            raise HeadError(
                f"a resized loss holds maps (N, C, *places) against a target with as many places; found an output of shape "
                f"{tuple(prediction.shape)} and a target {tuple(getattr(target, 'shape', ()))}."
            )
        size = tuple(target.shape[-places:])
        if tuple(prediction.shape[2:]) != size:
            if self.resize in ("enlarge", "interpolate"):
                prediction = enlarge(prediction, size)
            else:
                target = self._shrunk(target, tuple(prediction.shape[2:]), classes=prediction.shape[1])
        return self.loss(prediction, target, **context)

    def _shrunk(self, target: Tensor, size: tuple[int, ...], *, classes: int) -> Tensor:
        if target.is_floating_point():
            wide = target.unsqueeze(1) if target.ndim == len(size) + 1 else target
            small, counts = shrink_values(torch.nan_to_num(wide), (~wide.isnan()).to(wide.dtype), size, how=self.resize)
            small = torch.where(counts > 0, small, torch.nan)
            return small.squeeze(1) if target.ndim == len(size) + 1 else small
        if self.resize == "area":
            raise HeadError(
                "resize='area' makes shares of labels, which a loss of your own may not take. Choose 'nearest'."
            )
        flat = target.flatten(0, 1) if target.ndim == len(size) + 2 else target
        small = shrink(flat, size, how=self.resize, classes=max(2, classes)).to(target.dtype)
        return small.view(*target.shape[: target.ndim - len(size)], *size)


def resized(loss: Callable[..., Tensor], resize: str = "interpolate", *, kinds: tuple[str, ...] = ()) -> Resized:
    """A loss of one's own whose scores and target are brought to one size; see `Resized`."""
    return Resized(loss, resize, kinds)
