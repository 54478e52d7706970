"""Losses of real values: of vectors, sequences, maps and volumes, where what is NaN or masked does not count.

Values are (N, C, *places) against a target of that shape, or without the axis of one channel. Where sizes differ the target
is shrunk (or spread) to the prediction by the mean over what counts (`resize="area"`), or the prediction is interpolated.
With `flow` the channels are distances in pixels along the places, the last place first (x, y, z): resizing scales them.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup.errors import HeadError
from deepsup.features import widened
from deepsup.losses.named import loss
from deepsup.losses.pixelwise import enlarge
from deepsup.losses.resizing import shrink_values
from deepsup.losses.upsampled import mean_of
from deepsup.specs import ABOVE_ZERO, FLAG, one_of

ValueResize: TypeAlias = Annotated[str, one_of("area", "nearest", "interpolate")]


@loss(scores=True, resizes=True, kinds=("values",))
def mse(
    prediction: Tensor,  # (N, C, *places)
    target: Tensor,  # (N, C, *places)
    *,
    resize: ValueResize = "area",
    flow: Annotated[bool, FLAG] = False,
    mask: Tensor | None = None,
) -> Tensor:
    """The mean of the squared differences over all values that count."""
    values, goal, counts = met("mse", prediction, target, resize, flow, mask)
    return _mean((values - goal).square(), counts)


@loss(scores=True, resizes=True, kinds=("values",))
def l1(
    prediction: Tensor,  # (N, C, *places)
    target: Tensor,  # (N, C, *places)
    *,
    resize: ValueResize = "area",
    flow: Annotated[bool, FLAG] = False,
    mask: Tensor | None = None,
) -> Tensor:
    """The mean of the absolute differences over all values that count."""
    values, goal, counts = met("l1", prediction, target, resize, flow, mask)
    return _mean((values - goal).abs(), counts)


@loss(scores=True, resizes=True, kinds=("values",))
def huber(
    prediction: Tensor,  # (N, C, *places)
    target: Tensor,  # (N, C, *places)
    *,
    delta: Annotated[float, ABOVE_ZERO] = 1.0,
    resize: ValueResize = "area",
    flow: Annotated[bool, FLAG] = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Half the square of a difference up to `delta`, delta (|d| - delta / 2) above, averaged (Huber 1964)."""
    values, goal, counts = met("huber", prediction, target, resize, flow, mask)
    return _mean(F.huber_loss(values, goal, reduction="none", delta=delta), counts)


@loss(scores=True, resizes=True, kinds=("values",))
def smooth_l1(
    prediction: Tensor,  # (N, C, *places)
    target: Tensor,  # (N, C, *places)
    *,
    beta: Annotated[float, ABOVE_ZERO] = 1.0,
    resize: ValueResize = "area",
    flow: Annotated[bool, FLAG] = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Huber's loss divided by `beta`: d² / (2 beta) up to `beta`, |d| - beta / 2 above, averaged (Girshick 2015)."""
    values, goal, counts = met("smooth_l1", prediction, target, resize, flow, mask)
    return _mean(F.smooth_l1_loss(values, goal, reduction="none", beta=beta), counts)


@loss(scores=True, resizes=True, kinds=("values",), mean="vectors")
def cosine(
    prediction: Tensor,  # (N, C, *places)
    target: Tensor,  # (N, C, *places)
    *,
    resize: ValueResize = "area",
    mask: Tensor | None = None,
) -> Tensor:
    """1 - the cosine of prediction and target over the C channels, averaged over the places of which all channels count."""
    values, goal, counts = met("cosine", prediction, target, resize, False, mask)
    return _mean(1 - F.cosine_similarity(values, goal, dim=1), counts.amin(1))


def _mean(each: Tensor, counts: Tensor) -> Tensor:
    return mean_of(torch.where(counts > 0, each, 0.0).sum(), counts.sum())


def met(
    name: str, prediction: Tensor, target: Tensor, resize: str = "area", flow: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, target and whether each counts (1 or 0), all (N, C, *places) at one size; what does not count is 0 in both.

    `mask` is True (or not 0) where values count, of the target's shape, or without its channels. Raises `HeadError` where a
    target is no such values.
    """
    values, goal = widened(prediction), _channelled(name, prediction, target)
    known = ~goal.isnan() if goal.is_floating_point() else torch.ones_like(goal, dtype=torch.bool)
    if mask is not None:
        known = known & _broadcast(name, mask, goal)
    goal = torch.where(known, goal, 0).to(values.dtype)
    counts = known.to(values.dtype)
    size, full = tuple(values.shape[2:]), tuple(goal.shape[2:])
    if size != full:
        ratio = [a / b for a, b in zip(size, full, strict=True)]
        if resize == "interpolate":
            values, ratio = enlarge(values, full), [1 / r for r in ratio]
            values = scaled(name, values, ratio) if flow else values
        else:
            goal, counts = shrink_values(goal, counts, size, how=resize)
            goal = scaled(name, goal, ratio) if flow else goal
    return torch.where(counts > 0, values, 0.0), goal, counts


def _channelled(name: str, prediction: Tensor, target: Tensor) -> Tensor:
    """The target with an axis for channels."""
    shape = tuple(prediction.shape)
    if target.ndim == prediction.ndim - 1 and shape[1] == 1:
        target = target.unsqueeze(1)
    if target.is_complex() or target.ndim != prediction.ndim or target.ndim < 2 or tuple(target.shape[:2]) != shape[:2]:
        raise HeadError(
            f"loss '{name}' holds values of shape {shape}, (N, C, ...), against as many, or of one channel against (N, ...); "
            f"found a target of shape {tuple(target.shape)} and dtype {target.dtype}. Give this branch a head (or main=) whose "
            "output fits the target."
        )
    return target


def _broadcast(name: str, mask: Tensor, goal: Tensor) -> Tensor:
    wide = mask.unsqueeze(1) if mask.ndim == goal.ndim - 1 else mask
    fits = wide.ndim == goal.ndim and all(a in (1, b) for a, b in zip(wide.shape, goal.shape, strict=True))
    if not fits:
        raise HeadError(
            f"the mask of loss '{name}' has shape {tuple(mask.shape)}; it needs the target's, {tuple(goal.shape)}, or that "
            "without the channels."
        )
    return wide.to(torch.bool).expand_as(goal)


def scaled(name: str, vectors: Tensor, ratio: list[float]) -> Tensor:
    """Distances along the places, the last place first, in the pixels of a map whose sides are `ratio` times as long."""
    if vectors.shape[1] != len(ratio):
        raise HeadError(
            f"loss '{name}' with flow=True reads one distance for each of {len(ratio)} axes of places; the output has "
            f"{vectors.shape[1]} channels."
        )
    return vectors * vectors.new_tensor(ratio[::-1]).view(1, -1, *[1] * len(ratio))
