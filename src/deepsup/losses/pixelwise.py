"""How maps of scores (N, C, *places) meet labels (N, *places) of the same or another size, and their softmax loss.

Scores may be sequences, maps or volumes. Where sizes differ, `resize` says how they meet:

enlarge       scores are enlarged (bilinear) and held against every label, in blocks: the enlarged map never exists
interpolate   the same in two steps, the plain way
nearest, area, preserve   labels are shrunk to the scores, see `resizing`; nothing is enlarged

Places labelled `ignore_index` do not count. Where no place counts, a loss is 0 with a gradient of 0, and not NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup.errors import ClassCountError, HeadError
from deepsup.features import widened
from deepsup.losses import resizing
from deepsup.losses.labels import IGNORE, check_labels, free_to_look
from deepsup.losses.upsampled import mean_cross_entropy, mean_of, upsampled_cross_entropy
from deepsup.specs import one_of

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}

# Options that several losses have.
Resize: TypeAlias = Annotated[str, one_of("enlarge", "interpolate", *resizing.POLICIES)]


def map_cross_entropy(
    prediction: Tensor,  # (N, C, *places), raw scores
    target: Tensor,  # (N, *places), class indices
    *,
    smoothing: float = 0.0,
    resize: str = "enlarge",
    align_corners: bool = False,
    ignore_index: int = IGNORE,
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    """Softmax cross-entropy, averaged over the places that count; see `losses.cross_entropy`."""
    weight = weight_tensor(class_weight, prediction)
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
    return mean_cross_entropy(widened(prediction), target, weight, ignore_index=ignore_index, smoothing=smoothing)


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


def aligned(
    prediction: Tensor, target: Tensor, resize: str, align_corners: bool, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Scores, and how many places of each class (two of a single channel) stand against each: (N, classes, *places).

    That is one or none, but for cells by "area".
    """
    classes = max(2, prediction.shape[1])
    if resize == "area" and prediction.shape[2:] != target.shape[1:]:
        counts = resizing.class_counts(target, prediction.shape[2:], classes=classes, ignore_index=ignore_index)
        return widened(prediction), counts.to(widened(prediction).dtype)
    prediction, target = meet(prediction, target, resize=resize, align_corners=align_corners, ignore_index=ignore_index)
    if free_to_look(target):
        check_labels(classes, target, ignore_index)
    scores = widened(prediction)
    return scores, resizing.one_hot(target, classes, ignore_index).to(scores.dtype)


def aligned_labels(
    name: str, prediction: Tensor, target: Tensor, resize: str, align_corners: bool, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels from 0 to 1 and whether each counts, all (N, C, *places) at one size.

    Labels NaN or `ignore_index` do not count; shrunk by `area` a cell has the mean of those that do. Raises `HeadError` for
    numbers outside 0..1, where looking costs nothing.
    """
    scores = widened(prediction)
    goal = target.unsqueeze(1) if target.ndim == prediction.ndim - 1 else target
    known = (goal != ignore_index) & ~goal.isnan() if goal.is_floating_point() else goal.long() != ignore_index
    goal = torch.where(known, goal, 0).to(scores.dtype)
    if free_to_look(goal) and bool(((goal < 0) | (goal > 1)).any()):
        raise HeadError(
            f"loss '{name}' reads labels from 0 to 1, and this target holds {float(goal.min()):g} to {float(goal.max()):g}. "
            "Real values: loss mse, l1 or huber. One class a sample: its index, with cross_entropy."
        )
    counts = known.to(scores.dtype)
    if goal.shape[2:] == scores.shape[2:]:
        return scores, goal, counts
    if resize in ("enlarge", "interpolate"):
        return enlarge(scores, goal.shape[2:], align_corners=align_corners), goal, counts
    goal, counts = resizing.shrink_values(goal, counts, scores.shape[2:], how=resize)
    return scores, goal, counts


def own_places(places: Tensor, scores: Tensor) -> Tensor:
    """Of each channel the places of its class; of a single one those labelled 1."""
    return places[:, 1:] if scores.shape[1] == 1 else places


def _soft_cross_entropy(
    prediction: Tensor, target: Tensor, weight: Tensor | None, *, smoothing: float, ignore_index: int
) -> Tensor:
    """Against the classes of all places in each cell: every place counts as much as in the full map."""
    size, classes = prediction.shape[2:], prediction.shape[1]
    counts = resizing.class_counts(target, size, classes=classes, ignore_index=ignore_index).to(
        widened(prediction).dtype
    )
    spread = counts.sum(1, keepdim=True) / classes
    if weight is not None:
        by_class = weight.view(1, -1, *[1] * len(size))
        counts, spread = counts * by_class, spread * by_class
    goal = (1 - smoothing) * counts + smoothing * spread
    return mean_of(-(goal * widened(prediction).log_softmax(1)).sum(), counts.sum())


def weight_tensor(
    given: Sequence[float] | None, scores: Tensor, *, classes: int | None = None, name: str = "class_weight"
) -> Tensor | None:
    classes = scores.shape[1] if classes is None else classes
    if given is None:
        return None
    if len(given) != classes:
        raise ClassCountError(f"{name} has {len(given)} numbers for {classes} classes: give one for each.")
    return torch.tensor(given, dtype=widened(scores).dtype, device=scores.device)
