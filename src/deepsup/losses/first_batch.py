"""What can be seen in the first batch alone: whether scores and target are what was planned. Looks at numbers, so once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepsup.errors import HeadError, OutputError
from deepsup.losses.labels import IGNORE, check_labels
from deepsup.losses.named import Loss, describe, is_ours, option, show
from deepsup.predictions import Prediction


def guessed_axis(scores: Tensor, target: Any) -> int:
    """Of scores (N, ...) of which nothing is known the axis of the classes, 1 or -1, by what the target fits; 1 by custom."""
    if scores.ndim < 3 or not isinstance(target, Tensor) or not len(target):
        return 1
    if not target.is_floating_point():
        labels = target.squeeze(1) if target.ndim == scores.ndim and target.shape[1] == 1 else target
        return -1 if tuple(labels.shape) == tuple(scores.shape[:-1]) != (len(scores), *scores.shape[2:]) else 1
    if target.shape != scores.shape or target.is_complex():
        return 1
    return -1 if not _are_shares(target, 1) and _are_shares(target, -1) else 1


def check_axis(prediction: Prediction, output: Tensor, target: Any) -> None:
    """Raise `OutputError` where class indices (N, ...) fit classes on the other axis than planned, and there alone."""
    if not prediction.places or not isinstance(target, Tensor) or target.is_floating_point():
        return
    given, on_first, on_last = tuple(target.shape), (len(output), *output.shape[2:]), tuple(output.shape[:-1])
    last, first = given == on_last != on_first, given == on_first != on_last
    if (last and prediction.axis == 1) or (first and prediction.axis == -1):
        raise OutputError(
            f"labels {tuple(target.shape)} of an output {tuple(output.shape)} fit classes on "
            f"{'the last axis' if last else 'axis 1'}; planned were {prediction}. Say it: plan(..., classes_axis="
            f"{-1 if last else 1})."
        )


def check_target(loss: str | Loss, scores: Tensor, target: Tensor) -> None:
    """Raise `ClassCountError` when a label in `target` has no class in `scores` (N, C, ...) by this loss's count, `HeadError`
    for floats that are no probabilities where the loss takes such.

    One channel that goes through a sigmoid tells two classes apart.
    """
    reads = describe(loss)
    if not is_ours(loss) and reads.kinds in (("labels",), ("values",)):
        _check_elementwise(loss, reads.kinds[0], scores, target)
    if "class" not in reads.kinds or not reads.scores or not target.numel():
        return
    if reads.kinds == ("class",) and scores.shape[1] == 1 and not reads.one_channel:
        raise HeadError(
            f"loss '{show(loss)}' tells classes apart by one score each, and the output has a single one, {tuple(scores.shape)}: "
            "over it a softmax is always 1. Two classes by one score are loss='binary', real values 'mse'."
        )
    if not target.is_floating_point():
        if target.ndim < scores.ndim or target.shape[1] != scores.shape[1] or not reads.binary:
            one = scores.shape[1] == 1 and reads.one_channel
            check_labels(2 if one else scores.shape[1], target.long(), option(loss, "ignore_index", IGNORE))
    elif (
        reads.kinds == ("class",)
        and target.shape == scores.shape
        and scores.shape[1] > 1
        and not _are_shares(target, 1)
    ):
        hot = bool(((target == 0) | (target == 1)).all())
        fit = (
            "these are several labels a sample: loss='binary'"
            if hot
            else "real values need loss='mse', 'l1' or 'huber'"
        )
        low, high = float(target.min()), float(target.max())
        raise HeadError(
            f"loss '{show(loss)}' takes floats for the probabilities of {scores.shape[1]} classes, at least 0 and summing to 1; "
            f"this target holds {low:g} to {high:g}, and {fit}."
        )


def _check_elementwise(loss: str | Loss, kind: str, scores: Tensor, target: Tensor) -> None:
    """PyTorch's losses of values and labels would repeat a target of another shape until it fits, and take any number."""
    if tuple(target.shape) != tuple(scores.shape):
        raise HeadError(
            f"loss {show(loss)} would stretch a target of shape {tuple(target.shape)} over an output of {tuple(scores.shape)}. "
            f"Give both one shape, or use loss='{'binary' if kind == 'labels' else 'mse'}', which knows what belongs together."
        )
    if kind == "labels" and target.is_floating_point() and not bool(((target >= 0) & (target <= 1)).all()):
        raise HeadError(
            f"loss {show(loss)} reads labels from 0 to 1; this target holds {float(target.min()):g} to {float(target.max()):g}. "
            "Real values: loss mse, l1 or huber."
        )


def counted(loss: str | Loss, target: Any, mask: Tensor | None = None) -> Tensor | None:
    """Over how much a loss of this target is a mean: labels that count, each with its class's weight; values that are not NaN
    and not masked; None where a target has neither. Nothing is read back from the device.
    """
    if not isinstance(target, Tensor) or target.is_complex() or not target.ndim:
        return None
    if target.is_floating_point():
        known = ~target.isnan()
        if mask is not None and "values" in describe(loss).kinds:
            wide = mask.unsqueeze(1) if mask.ndim == target.ndim - 1 else mask
            known = known & wide.to(torch.bool).expand_as(known)
        values: Tensor = known.sum()
        return values
    target = (
        target.long()[:, int(option(loss, "shift", 0)) :] if target.ndim > 1 else target.long()
    )  # -100 is 156 in a byte
    known = (target >= 0) & (target != option(loss, "ignore_index", IGNORE))
    weight = option(loss, "class_weight", None)
    number: Tensor = known.sum()
    if weight is None or describe(loss).binary:
        return number
    each = torch.as_tensor(weight, device=target.device)[torch.where(known, target, 0)]
    return torch.where(known, each, 0.0).sum()


def _are_shares(target: Tensor, axis: int) -> bool:
    tolerance = 1e-3 if target.dtype in (torch.float32, torch.float64) else 2e-2
    return bool((target >= -tolerance).all()) and bool(((target.float().sum(axis) - 1).abs() < tolerance).all())
