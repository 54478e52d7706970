"""Losses on maps: scores (N, C, *places) against labels (N, *places) of the same or another size.

Scores may be sequences, maps or volumes. Where sizes differ, `resize` says how they meet:

enlarge       scores are enlarged (bilinear) and held against every label, in blocks: the enlarged map never exists
interpolate   the same in two steps, the plain way
nearest, area, preserve   labels are shrunk to the scores, see `targets`; nothing is enlarged

Places labelled `ignore_index` do not count. Where no place counts, a loss is 0 with a gradient of 0, and not NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup.errors import ClassCountError, HeadError
from deepsup.losses import resizing
from deepsup.losses.labels import IGNORE, check_labels, free_to_look, label_message
from deepsup.losses.upsampled import upsampled_binary_cross_entropy, upsampled_cross_entropy

RESIZES = ("enlarge", "interpolate", *resizing.POLICIES)
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
Weights = Sequence[float] | None


def cross_entropy(
    prediction: Tensor,
    target: Tensor,
    *,
    smoothing: float = 0.0,
    resize: str = "enlarge",
    align_corners: bool = False,
    ignore_index: int = IGNORE,
    class_weight: Weights = None,
) -> Tensor:
    """Softmax cross-entropy of scores (N, C, *places), averaged over the places that count; see `losses.cross_entropy`."""
    weight = _weight(class_weight, prediction)
    same = prediction.shape[2:] == target.shape[1:]
    if not same and resize == "enlarge" and prediction.ndim == 4:
        return upsampled_cross_entropy(
            prediction,
            target,
            align_corners=align_corners,
            ignore_index=ignore_index,
            weight=weight,
            smoothing=smoothing,
        )
    if not same and resize == "area":
        return _soft_cross_entropy(prediction, target, weight, smoothing=smoothing, ignore_index=ignore_index)
    prediction, target = meet(prediction, target, resize=resize, align_corners=align_corners, ignore_index=ignore_index)
    scores = _wide(prediction)
    try:
        total = F.cross_entropy(
            scores, target, weight, reduction="sum", ignore_index=ignore_index, label_smoothing=smoothing
        )
    except IndexError:
        raise ClassCountError(label_message(scores.shape[1], target, ignore_index)) from None
    counted = target != ignore_index
    if weight is None:
        return total / counted.sum().clamp(min=1)
    return _mean(total, torch.where(counted, weight[torch.where(counted, target, 0)], 0.0).sum())


def binary(
    prediction: Tensor,
    target: Tensor,
    *,
    resize: str = "enlarge",
    align_corners: bool = False,
    ignore_index: int = IGNORE,
    class_weight: Weights = None,
) -> Tensor:
    """Sigmoid cross-entropy, averaged over the places that count and the channels.

    `prediction` holds raw scores (N, 1, *places) against labels 0 and 1 (N, *places), or (N, C, *places), each class
    against the rest. `class_weight=[w0, w1]` weighs places labelled 0 and 1 (one channel), or in every channel the places
    of class c by its w_c, and the mean is the weighted one.
    """
    enlarges = resize == "enlarge" and class_weight is None and prediction.ndim == 4
    if prediction.shape[2:] != target.shape[1:] and enlarges:
        return upsampled_binary_cross_entropy(
            prediction, target, align_corners=align_corners, ignore_index=ignore_index
        )
    scores, places = _aligned(prediction, target, resize, align_corners, ignore_index)
    if class_weight is not None:
        weight = _weight(class_weight, scores, classes=places.shape[1])
        assert weight is not None
        places = places * weight.view(1, -1, *[1] * (scores.ndim - 2))
    all_of_them = places.sum(1, keepdim=True)
    own = _own(places, scores)
    each = own * F.softplus(-scores) + (all_of_them - own) * F.softplus(scores)
    return _mean(torch.where(all_of_them > 0, each, 0.0).sum(), all_of_them.sum() * scores.shape[1])


def balanced(
    prediction: Tensor,
    target: Tensor,
    *,
    resize: str = "enlarge",
    align_corners: bool = False,
    ignore_index: int = IGNORE,
) -> Tensor:
    """The class-balanced loss of HED (Xie & Tu 2015, eq. 2), per image, averaged over places and images.

    l = -beta sum_{Y+} log p - (1 - beta) sum_{Y-} log(1 - p), with beta = |Y-| / |Y| of each image. `prediction` holds raw
    scores (N, 1, *places), `target` labels 0 and 1 (N, *places). The paper sums over places (and has a learning rate of
    1e-6); this is a mean, so that the rate does not depend on the size of the image.
    """
    if prediction.shape[1] != 1:
        raise HeadError(
            f"loss 'balanced' tells two classes apart by one score a place, (N, 1, ...); found scores of shape "
            f"{tuple(prediction.shape)}. Give the output one channel, or use binary or cross_entropy."
        )
    scores, places = _aligned(prediction, target, resize, align_corners, ignore_index)
    without, edge = places[:, :1], places[:, 1:]
    axes = tuple(range(1, scores.ndim))
    whole = places.sum(axes, keepdim=True).clamp(min=1)
    beta = without.sum(axes, keepdim=True) / whole
    each = beta * edge * F.softplus(-scores) + (1 - beta) * without * F.softplus(scores)
    return (torch.where(places.sum(1, keepdim=True) > 0, each, 0.0) / whole).sum() / max(1, scores.shape[0])


def dice(
    prediction: Tensor,
    target: Tensor,
    *,
    resize: str = "enlarge",
    align_corners: bool = False,
    ignore_index: int = IGNORE,
    smooth: float = 1e-5,
) -> Tensor:
    """Soft Dice loss 1 - mean_c (2 sum p y + s) / (sum p + sum y + s) over batch and places (Milletari et al. 2016).

    p is the softmax over the classes, or the sigmoid of a single channel. Classes that the batch does not have are left
    out of the mean, or a batch without one would train towards whatever it holds. The original squares p and y in the
    denominator; this is the form of nnU-Net and MONAI. `prediction` and `target` as in `binary` and `cross_entropy`.
    Enlarging builds the full map here, also with `resize="enlarge"`.
    """
    scores, places = _aligned(prediction, target, resize, align_corners, ignore_index)
    p = scores.sigmoid() if scores.shape[1] == 1 else scores.softmax(1)
    own, all_of_them = _own(places, scores), places.sum(1, keepdim=True)
    axes = (0, *range(2, scores.ndim))
    both, of_p = (torch.where(all_of_them > 0, p * n, 0.0).sum(axes) for n in (own, all_of_them))
    of_y = own.sum(axes)
    score = (2 * both + smooth) / (of_p + of_y + smooth)
    there = (of_y > 0).to(score.dtype)
    return ((1 - score) * there).sum() / there.sum().clamp(min=1)


def dice_cross_entropy(
    prediction: Tensor,
    target: Tensor,
    *,
    resize: str = "enlarge",
    align_corners: bool = False,
    ignore_index: int = IGNORE,
    dice_weight: float = 1.0,
) -> Tensor:
    """`dice_weight` * Dice + cross-entropy (of one channel: the binary one), the loss of nnU-Net (Isensee et al. 2021)."""
    options = {"resize": resize, "align_corners": align_corners, "ignore_index": ignore_index}
    entropy = binary if prediction.shape[1] == 1 else cross_entropy
    rest = dice(prediction, target, **options)  # type: ignore[arg-type]
    return entropy(prediction, target, **options) + dice_weight * rest  # type: ignore[arg-type]


def meet(
    prediction: Tensor, target: Tensor, *, resize: str, align_corners: bool = False, ignore_index: int = IGNORE
) -> tuple[Tensor, Tensor]:
    """Scores and labels at one size: the labels' if `resize` enlarges, else the scores'."""
    size = tuple(target.shape[1:])
    if tuple(prediction.shape[2:]) == size:
        return prediction, target
    if resize in ("enlarge", "interpolate"):
        return enlarge(prediction, size, align_corners=align_corners), target
    classes = max(2, prediction.shape[1])
    size = tuple(prediction.shape[2:])
    return prediction, resizing.shrink(target, size, how=resize, classes=classes, ignore_index=ignore_index)


def enlarge(scores: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Scores (N, C, *places) at `size`, linearly in every direction; for a size that is theirs already, themselves."""
    if tuple(scores.shape[2:]) == tuple(size):
        return scores
    return F.interpolate(scores, tuple(size), mode=_MODES[len(size)], align_corners=align_corners)


def check_shapes(loss: str, prediction: Tensor, target: Tensor) -> None:
    """Raise `HeadError` where scores and a label map are of different batches or dimensions, whatever their sizes."""
    fits = target.ndim == prediction.ndim - 1 and target.shape[0] == prediction.shape[0]
    if not fits or target.is_floating_point():
        raise HeadError(
            f"loss '{loss}' holds scores of shape {tuple(prediction.shape)}, (N, C, ...), against class indices (integers) "
            f"(N, ...) of as many dimensions less one; found a target of shape {tuple(target.shape)} and dtype "
            f"{target.dtype}. Give labels as target.long(), a mask of shape (N, 1, H, W) without its axis of 1."
        )


def _aligned(
    prediction: Tensor, target: Tensor, resize: str, align_corners: bool, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Scores, and how many places of each class (two of a single channel) stand against each: (N, classes, *places).

    That is one or none, but for cells by "area".
    """
    classes = max(2, prediction.shape[1])
    if resize == "area" and prediction.shape[2:] != target.shape[1:]:
        counts = resizing.class_counts(target, prediction.shape[2:], classes=classes, ignore_index=ignore_index)
        return _wide(prediction), counts.to(_wide(prediction).dtype)
    prediction, target = meet(prediction, target, resize=resize, align_corners=align_corners, ignore_index=ignore_index)
    if free_to_look(target):
        check_labels(classes, target, ignore_index)
    scores = _wide(prediction)
    return scores, resizing.one_hot(target, classes, ignore_index).to(scores.dtype)


def _own(places: Tensor, scores: Tensor) -> Tensor:
    """Of each channel the places of its class; of a single one those labelled 1."""
    return places[:, 1:] if scores.shape[1] == 1 else places


def _mean(total: Tensor, whole: Tensor) -> Tensor:
    """0 where nothing counts."""
    return torch.where(whole > 0, total / torch.where(whole > 0, whole, 1.0), 0.0)


def _soft_cross_entropy(
    prediction: Tensor, target: Tensor, weight: Tensor | None, *, smoothing: float, ignore_index: int
) -> Tensor:
    """Against the classes of all places in each cell: every place counts as much as in the full map."""
    size, classes = prediction.shape[2:], prediction.shape[1]
    counts = resizing.class_counts(target, size, classes=classes, ignore_index=ignore_index).to(_wide(prediction).dtype)
    spread = counts.sum(1, keepdim=True) / classes
    if weight is not None:
        by_class = weight.view(1, -1, *[1] * len(size))
        counts, spread = counts * by_class, spread * by_class
    goal = (1 - smoothing) * counts + smoothing * spread
    return _mean(-(goal * _wide(prediction).log_softmax(1)).sum(), counts.sum())


def _weight(given: Weights, scores: Tensor, *, classes: int | None = None) -> Tensor | None:
    classes = scores.shape[1] if classes is None else classes
    if given is None:
        return None
    if len(given) != classes:
        raise ClassCountError(f"class_weight has {len(given)} numbers for {classes} classes: give one for each.")
    return torch.tensor(given, dtype=_wide(scores).dtype, device=scores.device)


def _wide(x: Tensor) -> Tensor:
    """In float32 where it is narrower."""
    return x if x.dtype == torch.float64 else x.float()
