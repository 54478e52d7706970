"""Losses of raw class scores against labels, one label a sample or a place."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup.errors import ClassCountError, HeadError
from deepsup.features import widened
from deepsup.losses.labels import IGNORE, ClassWeight, IgnoreIndex, label_message
from deepsup.losses.named import loss
from deepsup.losses.pixelwise import Resize, map_cross_entropy
from deepsup.specs import BELOW_ONE, FLAG, one_of

FORMS = ("multiclass", "one-vs-rest")


@loss(resizes=True)
def cross_entropy(
    prediction: Tensor,  # (N, C, ...), raw scores
    target: Tensor,  # (N, ...) class indices, or (N, C, ...) class probabilities
    *,
    smoothing: Annotated[float, BELOW_ONE] = 0.0,
    resize: Resize = "enlarge",
    align_corners: Annotated[bool, FLAG] = False,
    ignore_index: IgnoreIndex = IGNORE,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Softmax cross-entropy, averaged over the batch, and over the places of a map.

    Of the target, a share `smoothing` in [0, 1) is spread over all C classes (Szegedy et al. 2016, sec. 7). Labels
    `ignore_index` do not count; `class_weight` are C numbers, and the mean is the weighted one. Of maps the sizes may
    differ: `resize` says how they meet (module `pixelwise`), `align_corners` how scores are enlarged. Raises `HeadError`
    when the shapes do not fit and `ClassCountError` for an index that is not below C.
    """
    soft = target.is_floating_point()
    if prediction.ndim > 2 and not soft and target.ndim == prediction.ndim - 1 and len(target) == len(prediction):
        return map_cross_entropy(
            prediction,
            target.long(),
            smoothing=smoothing,
            resize=resize,
            align_corners=align_corners,
            ignore_index=ignore_index,
            class_weight=class_weight,
        )
    _check_shapes(prediction, target)
    weight = None if class_weight is None else prediction.new_tensor(class_weight)
    try:
        return F.cross_entropy(prediction, target, weight, ignore_index=ignore_index, label_smoothing=smoothing)
    except IndexError:
        raise ClassCountError(label_message(prediction.shape[1], target, ignore_index)) from None


def _check_shapes(prediction: Tensor, target: Tensor) -> None:
    """Raise the `HeadError` that says what to do where class indices or probabilities do not fit the scores."""
    soft = target.is_floating_point()
    indices = (prediction.shape[0], *prediction.shape[2:])
    expected = tuple(prediction.shape) if soft else indices
    if prediction.ndim >= 2 and tuple(target.shape) == expected:
        return
    if soft and (tuple(target.shape) == indices or (prediction.ndim > 2 and target.ndim == prediction.ndim - 1)):
        raise HeadError(f"the target has class indices of dtype {target.dtype}; convert them: target.long().")
    if prediction.ndim > 2 and tuple(target.shape[:2]) == (len(prediction), 1):
        raise HeadError(
            f"labels are (N, ...), and this target of shape {tuple(target.shape)} has an axis of 1 for channels; take it "
            "out: target.squeeze(1)."
        )
    kind = "probabilities" if soft else "class indices"
    raise HeadError(
        f"a prediction of shape {tuple(prediction.shape)} needs {kind} of shape {expected}; found a target of shape "
        f"{tuple(target.shape)}. Give this branch a head (or main=) whose output fits the target."
    )


@loss()
def squared_hinge(
    prediction: Tensor,  # (N, C, ...), raw scores s
    target: Tensor,  # (N, ...), class indices y; -100 does not count
    *,
    form: Annotated[str, one_of(*FORMS)] = "multiclass",
) -> Tensor:
    """The squared hinge loss of DSN (Lee et al. 2015), summed over the classes, averaged over the batch.

    `form="multiclass"` is the paper's: sum over k != y of max(0, 1 - (s_y - s_k))^2 (its exact form from memory).
    `form="one-vs-rest"` is what was released: sum over k of max(0, 1 - d_k s_k)^2, with d_k = 1 for k = y, else -1;
    its gradient is that of the released layer, 2 C_ / num with C_ = 1. Raises as `cross_entropy` does.
    """
    expected = (prediction.shape[0], *prediction.shape[2:])
    if prediction.ndim < 2 or target.is_floating_point() or tuple(target.shape) != expected:
        raise HeadError(
            f"squared_hinge of a prediction of shape {tuple(prediction.shape)} needs class indices (integers) of shape "
            f"{expected}; found a target of shape {tuple(target.shape)} and dtype {target.dtype}. Mixed labels need "
            "cross_entropy; other shapes a head (or main=) that fits the target."
        )
    scores, counts = widened(prediction), target != IGNORE
    index = torch.where(counts, target, 0).unsqueeze(1)
    try:
        of_class = torch.zeros_like(scores).scatter(1, index, 1.0)
        own = scores.gather(1, index)
    except RuntimeError:
        raise ClassCountError(label_message(prediction.shape[1], target)) from None
    if form == "multiclass":
        each = F.relu(1 - own + scores).square() * (1 - of_class)
    else:
        each = F.relu(1 - (2 * of_class - 1) * scores).square()
    return torch.where(counts, each.sum(1), 0.0).sum() / counts.sum().clamp(min=1)


def gated(value: Tensor, norm: Tensor | float, gamma: float) -> Tensor:
    """DSN's bracket [||w||^2 + l - gamma]_+ (Lee et al. 2015, eq. 3): no gradient where it is below `gamma`."""
    return F.relu(norm + value - gamma)
