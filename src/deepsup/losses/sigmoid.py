"""Losses of scores that go through a sigmoid: of one channel for two classes, of several for each class against the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup.errors import HeadError
from deepsup.losses.labels import IGNORE, ClassWeight, IgnoreIndex, as_classes, is_multi_hot
from deepsup.losses.named import loss
from deepsup.losses.pixelwise import Resize, aligned, aligned_labels, own_places, weight_tensor
from deepsup.losses.upsampled import mean_of, upsampled_binary_cross_entropy
from deepsup.specs import FLAG, Limit, is_number

PosWeight: TypeAlias = Annotated[
    Sequence[float] | float | None,
    Limit(
        "a number of at least 0, a list of one a channel, or None",
        lambda v: v is None or all(is_number(w) and w >= 0 for w in (v if isinstance(v, (list, tuple)) else [v])),
    ),
]


@loss(binary=True, one_channel=True, resizes=True, kinds=("labels", "class"))
def binary(
    prediction: Tensor,  # (N, 1, *places) or (N, C, *places), raw scores
    target: Tensor,  # (N, *places) class indices, or (N, C, *places) from 0 to 1: labels
    *,
    resize: Resize = "enlarge",
    align_corners: Annotated[bool, FLAG] = False,
    ignore_index: IgnoreIndex = IGNORE,
    class_weight: ClassWeight = None,
    pos_weight: PosWeight = None,
) -> Tensor:
    """Sigmoid cross-entropy, averaged over the places that count and the channels.

    `prediction` holds raw scores (N, 1, *places) against labels 0 and 1 (N, *places), or (N, C, *places) against as many
    labels, each 0 or 1 (or between), of any type; or against class indices (N, *places), each class against the rest.
    Of labels NaN and `ignore_index` do not count. `class_weight=[w0, w1]` weighs places labelled 0 and 1 (one channel), or
    in every channel the places of class c by its w_c, or label c by w_c, and the mean is the weighted one. `pos_weight`,
    a number or one a channel, multiplies the part of what is labelled 1, as PyTorch does.
    """
    if is_multi_hot(prediction, target):
        return _of_labels(prediction, target, resize, align_corners, ignore_index, class_weight, pos_weight)
    target = as_classes("binary", prediction, target)
    enlarges = resize == "enlarge" and class_weight is None and pos_weight is None and prediction.ndim == 4
    if prediction.shape[2:] != target.shape[1:] and enlarges:
        return upsampled_binary_cross_entropy(
            prediction, target, align_corners=align_corners, ignore_index=ignore_index
        )
    scores, places = aligned(prediction, target, resize, align_corners, ignore_index)
    if class_weight is not None:
        places = places * _view(weight_tensor(class_weight, scores, classes=places.shape[1]), scores)
    all_of_them = places.sum(1, keepdim=True)
    own = own_places(places, scores)
    each = own * _positive(pos_weight, scores) * F.softplus(-scores) + (all_of_them - own) * F.softplus(scores)
    return mean_of(torch.where(all_of_them > 0, each, 0.0).sum(), all_of_them.sum() * scores.shape[1])


def _of_labels(
    prediction: Tensor,
    target: Tensor,
    resize: str,
    align_corners: bool,
    ignore_index: int,
    class_weight: Sequence[float] | None,
    pos_weight: Sequence[float] | float | None,
) -> Tensor:
    """Of labels (N, C, *places), each a number from 0 to 1."""
    scores, goal, counts = aligned_labels("binary", prediction, target, resize, align_corners, ignore_index)
    there, absent = counts * goal, counts * (1 - goal)
    if class_weight is not None and scores.shape[1] == 1:
        two = weight_tensor(class_weight, scores, classes=2)
        assert two is not None
        there, absent = two[1] * there, two[0] * absent
    elif class_weight is not None:
        there, absent = (part * _view(weight_tensor(class_weight, scores), scores) for part in (there, absent))
    each = there * _positive(pos_weight, scores) * F.softplus(-scores) + absent * F.softplus(scores)
    return mean_of(torch.where(counts > 0, each, 0.0).sum(), (there + absent).sum())


def _positive(given: Sequence[float] | float | None, scores: Tensor) -> Tensor | float:
    """`pos_weight` for every channel."""
    if given is None or is_number(given):
        return 1.0 if given is None else float(given)  # type: ignore[arg-type]
    return _view(weight_tensor(given, scores, name="pos_weight"), scores)  # type: ignore[arg-type]


def _view(weight: Tensor | None, scores: Tensor) -> Tensor:
    assert weight is not None
    return weight.view(1, -1, *[1] * (scores.ndim - 2))


@loss(binary=True, one_channel=True, only_one_channel=True, resizes=True, kinds=("labels", "class"), mean="samples")
def balanced(
    prediction: Tensor,  # (N, 1, *places), raw scores
    target: Tensor,  # (N, *places), labels 0 and 1
    *,
    resize: Resize = "enlarge",
    align_corners: Annotated[bool, FLAG] = False,
    ignore_index: IgnoreIndex = IGNORE,
    total: Annotated[bool, FLAG] = False,
) -> Tensor:
    """The class-balanced loss of HED (Xie & Tu 2015, eq. 2), per image, averaged over places and images.

    l = -beta sum_{Y+} log p - (1 - beta) sum_{Y-} log(1 - p), with beta = |Y-| / |Y| of each image. `prediction` holds raw
    scores (N, 1, *places), `target` labels 0 and 1 (N, *places). The mean is over the places that count, so that the rate
    does not depend on the size of the image; with `total` it is their sum, as in paper and release (at a rate of 1e-6).
    Places labelled `ignore_index` are in neither, nor in beta.
    """
    target = as_classes("balanced", prediction, target)
    if prediction.shape[1] != 1:
        raise HeadError(
            f"loss 'balanced' tells two classes apart by one score a place, (N, 1, ...); found scores of shape "
            f"{tuple(prediction.shape)}. Give the output one channel, or use binary or cross_entropy."
        )
    scores, places = aligned(prediction, target, resize, align_corners, ignore_index)
    without, edge = places[:, :1], places[:, 1:]
    axes = tuple(range(1, scores.ndim))
    whole = places.sum(axes, keepdim=True).clamp(min=1)
    beta = without.sum(axes, keepdim=True) / whole
    each = beta * edge * F.softplus(-scores) + (1 - beta) * without * F.softplus(scores)
    shares = each if total else each / whole
    return torch.where(places.sum(1, keepdim=True) > 0, shares, 0.0).sum() / max(1, scores.shape[0])
