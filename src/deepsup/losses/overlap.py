"""Losses of the overlap between what is predicted and what is there."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from deepsup.losses.labels import IGNORE, IgnoreIndex
from deepsup.losses.named import loss
from deepsup.losses.pixelwise import Resize, aligned, as_labels, map_cross_entropy, own_places
from deepsup.losses.sigmoid import binary
from deepsup.specs import FLAG, at_least


@loss(one_channel=True, resizes=True)
def dice(
    prediction: Tensor,  # (N, C, *places), raw scores
    target: Tensor,  # (N, *places), class indices
    *,
    resize: Resize = "enlarge",
    align_corners: Annotated[bool, FLAG] = False,
    ignore_index: IgnoreIndex = IGNORE,
    smooth: Annotated[float, at_least(0)] = 1e-5,
) -> Tensor:
    """Soft Dice loss 1 - mean_c (2 sum p y + s) / (sum p + sum y + s) over batch and places (Milletari et al. 2016).

    p is the softmax over the classes, or the sigmoid of a single channel. Classes that the batch does not have are left
    out of the mean, or a batch without one would train towards whatever it holds. The original squares p and y in the
    denominator; this is the form of nnU-Net and MONAI. `prediction` and `target` as in `binary` and `cross_entropy`.
    Enlarging builds the full map here, also with `resize="enlarge"`.
    """
    target = as_labels("dice", prediction, target)
    scores, places = aligned(prediction, target, resize, align_corners, ignore_index)
    p = scores.sigmoid() if scores.shape[1] == 1 else scores.softmax(1)
    own, all_of_them = own_places(places, scores), places.sum(1, keepdim=True)
    axes = (0, *range(2, scores.ndim))
    both, of_p = (torch.where(all_of_them > 0, p * n, 0.0).sum(axes) for n in (own, all_of_them))
    of_y = own.sum(axes)
    overlap = (2 * both + smooth) / (of_p + of_y + smooth)
    there = (of_y > 0).to(overlap.dtype)
    return ((1 - overlap) * there).sum() / there.sum().clamp(min=1)


@loss(one_channel=True, resizes=True)
def dice_cross_entropy(
    prediction: Tensor,  # (N, C, *places), raw scores
    target: Tensor,  # (N, *places), class indices
    *,
    resize: Resize = "enlarge",
    align_corners: Annotated[bool, FLAG] = False,
    ignore_index: IgnoreIndex = IGNORE,
    dice_weight: Annotated[float, at_least(0)] = 1.0,
) -> Tensor:
    """`dice_weight` * Dice + cross-entropy (of one channel: the binary one), the loss of nnU-Net (Isensee et al. 2021)."""
    target = as_labels("dice_cross_entropy", prediction, target)
    options: dict[str, Any] = {"resize": resize, "align_corners": align_corners, "ignore_index": ignore_index}
    entropy = binary if prediction.shape[1] == 1 else map_cross_entropy
    rest = dice(prediction, target, **options)
    return entropy(prediction, target, **options) + dice_weight * rest
