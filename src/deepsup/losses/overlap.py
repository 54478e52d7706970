"""Losses of the overlap between what is predicted and what is there."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from deepsup.losses.labels import IGNORE, IgnoreIndex, as_classes, is_multi_hot
from deepsup.losses.named import loss
from deepsup.losses.pixelwise import Resize, aligned, aligned_labels, map_cross_entropy, own_places
from deepsup.losses.sigmoid import binary
from deepsup.specs import FLAG, at_least


@loss(one_channel=True, resizes=True, kinds=("class", "labels"), mean="samples")
def dice(
    prediction: Tensor,  # (N, C, *places), raw scores
    target: Tensor,  # (N, *places) class indices, or (N, C, *places) regions that may overlap
    *,
    resize: Resize = "enlarge",
    align_corners: Annotated[bool, FLAG] = False,
    ignore_index: IgnoreIndex = IGNORE,
    smooth: Annotated[float, at_least(0)] = 1e-5,
    background: Annotated[bool, FLAG] = True,
    batch: Annotated[bool, FLAG] = True,
    absent: Annotated[bool, FLAG] = False,
) -> Tensor:
    """Soft Dice loss 1 - mean_c (2 sum p y + s) / (sum p + sum y + s) over batch and places (Milletari et al. 2016).

    p is the softmax over the classes, or the sigmoid of a single channel; of regions, each with labels 0 and 1, the sigmoid
    of each. Without `background` class 0 of several is left out; without `batch` the sums are of each sample, and the loss
    is their mean; unless `absent`, classes that the batch (or sample) does not have are left out of the mean, or a batch
    without one would train towards whatever it holds. nnU-Net: background=False, absent=True, smooth=1e-5, batch as it is
    configured; MONAI: batch=False, absent=True, smooth=1e-5. The original squares p and y in the denominator; this is the
    form of nnU-Net and MONAI. Enlarging builds the full map here, also with `resize="enlarge"`.
    """
    if is_multi_hot(prediction, target):
        scores, own, counts = aligned_labels("dice", prediction, target, resize, align_corners, ignore_index)
        p, own, weight = scores.sigmoid(), own * counts, counts
    else:
        labels = as_classes("dice", prediction, target)
        scores, places = aligned(prediction, labels, resize, align_corners, ignore_index)
        p = scores.sigmoid() if scores.shape[1] == 1 else scores.softmax(1)
        own, weight = own_places(places, scores), places.sum(1, keepdim=True)
        if not background and scores.shape[1] > 1:
            p, own = p[:, 1:], own[:, 1:]
    axes = (*((0,) if batch else ()), *range(2, scores.ndim))
    both = torch.where(weight > 0, p * own, 0.0).sum(axes)
    of_p = torch.where(weight > 0, p * weight, 0.0).sum(axes)
    of_y = own.sum(axes)
    # 0 / 0 is a class that neither has: perfect
    whole = of_p + of_y + smooth
    overlap = torch.where(whole > 0, (2 * both + smooth) / torch.where(whole > 0, whole, 1.0), 1.0)
    there = torch.ones_like(of_y) if absent else (of_y > 0).to(overlap.dtype)
    return ((1 - overlap) * there).sum() / there.sum().clamp(min=1)


@loss(one_channel=True, resizes=True, kinds=("class", "labels"))
def dice_cross_entropy(
    prediction: Tensor,  # (N, C, *places), raw scores
    target: Tensor,  # (N, *places) class indices, or (N, C, *places) regions that may overlap
    *,
    resize: Resize = "enlarge",
    align_corners: Annotated[bool, FLAG] = False,
    ignore_index: IgnoreIndex = IGNORE,
    dice_weight: Annotated[float, at_least(0)] = 1.0,
    entropy_weight: Annotated[float, at_least(0)] = 1.0,
    smooth: Annotated[float, at_least(0)] = 1e-5,
    background: Annotated[bool, FLAG] = True,
    batch: Annotated[bool, FLAG] = True,
    absent: Annotated[bool, FLAG] = False,
) -> Tensor:
    """`dice_weight` * Dice + `entropy_weight` * cross-entropy (of one channel and of regions: the binary one), the loss of
    nnU-Net (Isensee et al. 2021); options as in `dice`.
    """
    options: dict[str, Any] = {"resize": resize, "align_corners": align_corners, "ignore_index": ignore_index}
    form: dict[str, Any] = {"smooth": smooth, "background": background, "batch": batch, "absent": absent}
    regions = is_multi_hot(prediction, target)
    target = target if regions else as_classes("dice_cross_entropy", prediction, target)
    entropy = binary if regions or prediction.shape[1] == 1 else map_cross_entropy
    overlap = dice(prediction, target, **options, **form)
    return entropy_weight * entropy(prediction, target, **options) + dice_weight * overlap
