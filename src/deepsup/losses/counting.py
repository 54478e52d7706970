"""Over how much a loss is a mean, so that the means of batches make that of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepsup.losses.labels import IGNORE, is_multi_hot
from deepsup.losses.named import Loss, describe, is_ours, option
from deepsup.losses.resizing import POLICIES, shrink, shrink_values


def counted(loss: str | Loss, scores: Tensor, target: Any, mask: Tensor | None = None) -> Tensor | None:
    """Over how much a loss of scores (N, C, *places) is a mean: labels that count, each with its class's weight; values that are
    not NaN and not masked; cells, where the target is shrunk. None for samples, and for a target that has neither.

    Nothing is read back from the device.
    """
    found = None if describe(loss).mean == "samples" else _amounts(loss, scores, target, mask)
    return None if found is None else found.sum()


def counts_nothing(loss: str | Loss, scores: Tensor, target: Any, mask: Tensor | None = None) -> bool:
    """Whether not one label or value of a target counts for a loss of scores (N, C, *places). Looks at numbers."""
    found = _amounts(loss, scores, target, mask)
    return found is not None and not bool(found.any())


def _amounts(loss: str | Loss, scores: Tensor, target: Any, mask: Tensor | None) -> Tensor | None:
    """How much every label or value of a target counts; None of what has neither."""
    if not isinstance(target, Tensor) or target.is_complex() or not target.ndim:
        return None
    values = describe(loss).kinds == ("values",)
    if values or target.is_floating_point() or is_multi_hot(scores, target):
        return _each(loss, scores, target, mask if values else None)
    return _labels(loss, scores, target.long())  # -100 is 156 in a byte


def _each(loss: str | Loss, scores: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """How much every number of a target counts, that has one for every channel."""
    reads, wide = describe(loss), target.unsqueeze(1) if target.ndim == scores.ndim - 1 else target
    known = ~wide.isnan() if wide.is_floating_point() else torch.ones_like(wide, dtype=torch.bool)
    if "values" not in reads.kinds:
        known = known & ((wide if wide.is_floating_point() else wide.long()) != option(loss, "ignore_index", IGNORE))
    if mask is not None:
        known = known & (mask.unsqueeze(1) if mask.ndim == wide.ndim - 1 else mask).to(torch.bool).expand_as(known)
    counts, goal = known.float(), torch.where(known, wide, 0).float()
    how, size = _shrinks(loss, scores, tuple(wide.shape[2:]))
    if how:
        goal, counts = shrink_values(goal, counts, size, how=how)
    weight = option(loss, "class_weight", None) if reads.binary and is_ours(loss) else None
    if weight is not None and scores.shape[1] == 1:  # of what is not there, and of what is
        counts = counts * (weight[0] * (1 - goal) + weight[1] * goal)
    elif weight is not None:
        counts = counts * counts.new_tensor(weight).view(1, -1, *[1] * (wide.ndim - 2))
    return counts.amin(1) if reads.mean == "vectors" else counts


def _labels(loss: str | Loss, scores: Tensor, target: Tensor) -> Tensor:
    """How much every class index counts."""
    ignore = int(option(loss, "ignore_index", IGNORE))
    target = target.squeeze(1) if target.ndim == scores.ndim and target.shape[1] == 1 else target
    target = target[:, int(option(loss, "shift", 0)) :] if target.ndim > 1 else target
    how, size = _shrinks(loss, scores, tuple(target.shape[1:]))
    if how in ("nearest", "preserve"):  # by area every place counts in its cell
        target = shrink(target, size, how=how, classes=max(2, scores.shape[1]), ignore_index=ignore)
    known = (target >= 0) & (target != ignore)
    weight = option(loss, "class_weight", None)
    if weight is None:
        return known
    each = torch.as_tensor(weight, device=target.device)[torch.where(known, target, 0)]
    return torch.where(known, each, 0.0)


def _shrinks(loss: str | Loss, scores: Tensor, places: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """How a target is shrunk to the size of the scores, and to which; an empty text where it is not."""
    size = tuple(scores.shape[2:])
    how = option(loss, "resize", "area" if describe(loss).kinds == ("values",) else "enlarge")
    shrunk = (
        is_ours(loss) and describe(loss).resizes and how in POLICIES and size != places and len(size) == len(places)
    )
    return (str(how) if shrunk else ""), size
