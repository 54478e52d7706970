"""Losses of raw class scores against labels, one label a sample or a place."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup.errors import ClassCountError, HeadError
from deepsup.features import widened
from deepsup.losses.labels import IGNORE, ClassWeight, IgnoreIndex, as_classes, label_message
from deepsup.losses.named import loss
from deepsup.losses.pixelwise import Resize, map_cross_entropy
from deepsup.specs import BELOW_ONE, FLAG, at_least, one_of

FORMS = ("multiclass", "one-vs-rest")


@loss(resizes=True)
def cross_entropy(
    prediction: Tensor,  # (N, C, ...), raw scores
    target: Tensor,  # (N, ...) or (N, 1, ...) class indices of any integer type, or (N, C, ...) class probabilities
    *,
    smoothing: Annotated[float, BELOW_ONE] = 0.0,
    resize: Resize = "enlarge",
    align_corners: Annotated[bool, FLAG] = False,
    ignore_index: IgnoreIndex = IGNORE,
    class_weight: ClassWeight = None,
    shift: Annotated[int, at_least(0)] = 0,
) -> Tensor:
    """Softmax cross-entropy, averaged over the batch, and over the places of a map, that count; 0 where none does.

    Of the target, a share `smoothing` in [0, 1) is spread over all C classes (Szegedy et al. 2016, sec. 7). Labels
    `ignore_index` do not count; `class_weight` are C numbers, and the mean is the weighted one. Of maps the sizes may
    differ: `resize` says how they meet (module `pixelwise`), `align_corners` how scores are enlarged. With `shift=1` each
    place of a sequence is held against the label after it, as language models are trained. Raises `HeadError` when the
    shapes do not fit and `ClassCountError` for an index that is not below C.
    """
    target = as_classes("cross_entropy", prediction, target, probabilities=True)
    if shift and prediction.ndim != 3:
        raise HeadError(
            f"cross_entropy(shift={shift}) holds each place of a sequence (N, C, L) against the label after it; found scores of "
            f"shape {tuple(prediction.shape)}. Leave shift= out, or give this branch a head that scores every place."
        )
    if shift:
        prediction, target = prediction[:, :, :-shift], target[:, shift:]
    if target.is_floating_point():
        weight = None if class_weight is None else prediction.new_tensor(class_weight)
        goal, places = target.to(widened(prediction).dtype), max(1, prediction.numel() // prediction.shape[1])
        return F.cross_entropy(prediction, goal, weight, label_smoothing=smoothing, reduction="sum") / places
    return map_cross_entropy(
        prediction,
        target,
        smoothing=smoothing,
        resize=resize,
        align_corners=align_corners,
        ignore_index=ignore_index,
        class_weight=class_weight,
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
    target = as_classes("squared_hinge", prediction, target, sizes=True)
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
