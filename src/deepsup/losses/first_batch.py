"""What can be seen in the first batch alone: whether scores and target are what was planned. Looks at numbers, so once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepsup.errors import HeadError, OutputError
from deepsup.losses.labels import IGNORE, check_labels, is_multi_hot
from deepsup.losses.named import Loss, describe, is_ours, option, show
from deepsup.predictions import BY_SHAPE, BY_TYPE, Prediction

_STRIDE = 1.5  # a net that skips places has at least every second, give or take rounding


def guessed_axis(scores: Tensor, target: Any, kind: str = "class") -> int:
    """Of scores (N, ...) of which nothing is known the axis of the channels, 1 or -1, by what the target fits; 1 by custom where
    it fits neither. Raises `OutputError` where it fits both.
    """
    first, last = _fits(scores, target, kind)
    if first and last:
        raise OutputError(
            f"a target {tuple(target.shape)} of an output {tuple(scores.shape)} fits channels on axis 1 and on the last alike, "
            "and without a plan nothing else tells. Say it: Objective(classes_axis=1), or -1; a plan knows it from the layers."
        )
    return -1 if last else 1


def check_axis(prediction: Prediction, output: Tensor, target: Any) -> None:
    """Raise `OutputError` where class indices (N, ...) fit classes on the other axis than planned, and there alone; where the
    plan has guessed from a shape, also where they fit both, or by their ratio the other. Raise `HeadError` for floats where the
    model's own loss reads such as something else than classes.
    """
    if prediction.source == BY_TYPE and isinstance(target, Tensor) and target.is_floating_point():
        raise HeadError(
            f"a target of floats {tuple(target.shape)} is several labels a sample to the loss that this model has of its own, "
            "and probabilities of one class to cross_entropy. Say which: plan(..., task='labels'), or task='classification'."
        )
    if not prediction.places or not isinstance(target, Tensor) or target.is_floating_point():
        return
    guessed = prediction.source == BY_SHAPE
    labels = _without_one(output, target)
    first, last = _fits(output, target, "class") if guessed else _fits_exactly(output, labels)
    if (last if prediction.axis == 1 else first) and (guessed or not (first and last)):
        fit = "axis 1 and on the last alike" if first and last else "the last axis" if last else "axis 1"
        raise OutputError(
            f"labels {tuple(target.shape)} of an output {tuple(output.shape)} fit classes on {fit}; planned were {prediction}. "
            f"Say it: plan(..., classes_axis={'1), or -1' if first and last else '-1)' if last else '1)'}."
        )


def _fits(scores: Tensor, target: Any, kind: str) -> tuple[bool, bool]:
    """Whether a target fits channels on axis 1 of scores (N, ...), and on the last axis. Looks at numbers where it must."""
    if scores.ndim < 3 or not isinstance(target, Tensor) or not len(target) or target.is_complex():
        return False, False
    if target.shape == scores.shape and kind != "class":  # each number its own: only what looks like a map tells
        square = [scores.ndim > 3 and len(set(sides)) == 1 for sides in (scores.shape[2:], scores.shape[1:-1])]
        return square[0] or not square[1], square[1] and not square[0]
    if target.is_floating_point():
        same = target.shape == scores.shape
        return same and _are_shares(target, 1), same and _are_shares(target, -1)
    labels = _without_one(scores, target)
    if labels.ndim != scores.ndim - 1 or labels.shape[0] != scores.shape[0]:
        return False, False
    exactly = _fits_exactly(scores, labels)
    if any(exactly):
        return exactly
    highest, sizes = int(labels.max()), (scores.shape[2:], scores.shape[1:-1])
    alike = [_is_like(size, labels.shape[1:]) for size in sizes]
    return alike[0] and highest < scores.shape[1], alike[1] and highest < scores.shape[-1]


def _without_one(scores: Tensor, target: Tensor) -> Tensor:
    """Labels (N, 1, *places) as (N, *places)."""
    return target.squeeze(1) if target.ndim == scores.ndim and target.shape[1] == 1 else target


def _fits_exactly(scores: Tensor, labels: Tensor) -> tuple[bool, bool]:
    shape = tuple(labels.shape)
    return shape == (len(scores), *scores.shape[2:]), shape == tuple(scores.shape[:-1])


def _is_like(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sizes of a map have one ratio, give or take rounding; of a sequence any two."""
    pairs = list(zip(size, other, strict=True))
    return all(abs(a * d - b * c) < max(a, b, c, d) for a, b in pairs for c, d in pairs)


def check_target(loss: str | Loss, scores: Tensor, target: Tensor) -> None:
    """Raise `ClassCountError` when a label in `target` has no class in `scores` (N, C, ...) by this loss's count, `HeadError`
    for floats that are no probabilities where the loss takes such.

    One channel that goes through a sigmoid tells two classes apart.
    """
    reads = describe(loss)
    if target.is_complex():
        raise HeadError(
            f"loss '{show(loss)}' reads no complex numbers, and this target holds {target.dtype}. Take target.real, or .abs()."
        )
    if not is_ours(loss) and reads.kinds in (("labels",), ("values",)):
        _check_elementwise(loss, reads.kinds[0], scores, target)
    if is_ours(loss) and "labels" in reads.kinds and is_multi_hot(scores, target):
        ignored = target.long() if not target.is_floating_point() else target
        _check_shares(loss, ignored[ignored != option(loss, "ignore_index", IGNORE)])
        return
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


def check_places(loss: str | Loss, scores: Tensor, target: Tensor) -> None:
    """Raise `HeadError` where resizing would bring together in silence what is no matter of size: a target that lies on its side,
    a map of another shape unless the loss says `resize=`, a sequence of another length that no stride explains.
    """
    places = scores.ndim - 2
    if not describe(loss).resizes or places < 1 or target.ndim <= places:
        return
    size, own = tuple(scores.shape[2:]), tuple(target.shape[-places:])
    here, there = ("x".join(map(str, shape)) for shape in (size, own))
    would = f"loss '{show(loss)}' would stretch scores of {here} (height x width) over a target of {there},"
    if places == 2 and not _is_like(size, own) and _is_like(size[::-1], own):
        raise HeadError(f"{would} which seems to lie on its side: transpose it.")
    if not _have_one_stride(size, own) and option(loss, "resize", None) is None:
        how = "area" if describe(loss).kinds == ("values",) else "enlarge"
        raise HeadError(
            f"{would} which no stride explains, give or take a place. Crop or resize the target as the model's input was; where "
            f"both show the same, say so: the option resize='{how}' of the loss."
        )
    if places == 1 and (own[0] < size[0] or size[0] < own[0] < _STRIDE * size[0]):
        raise HeadError(
            f"loss '{show(loss)}' would stretch scores of {size[0]} places over a target of {own[0]}. Give each place its "
            "target; where it has none, -100 for classes and NaN for values. A target that is one place further on: shift=1."
        )


def _have_one_stride(size: Sequence[int], full: Sequence[int]) -> bool:
    """Whether one stride makes a map of `size` of one of `full`, where each axis may have lost or won a place by rounding and
    padding."""
    least = max(b / (a + 1) for a, b in zip(size, full, strict=True))
    most = min(b / (a - 1) if a > 1 else math.inf for a, b in zip(size, full, strict=True))
    return tuple(size) == tuple(full) or least <= most


def check_finite(loss: str | Loss, target: Tensor) -> None:
    """Raise `HeadError` for infinite values, of which the first step would make every weight NaN."""
    if describe(loss).kinds == ("values",) and target.is_floating_point() and bool(target.isinf().any()):
        raise HeadError(
            f"loss '{show(loss)}' holds values against a target with {int(target.isinf().sum())} infinite ones. Write NaN "
            "where a value does not count."
        )


def _check_elementwise(loss: str | Loss, kind: str, scores: Tensor, target: Tensor) -> None:
    """PyTorch's losses of values and labels would repeat a target of another shape until it fits, and take any number."""
    if tuple(target.shape) != tuple(scores.shape):
        raise HeadError(
            f"loss {show(loss)} would stretch a target of shape {tuple(target.shape)} over an output of {tuple(scores.shape)}. "
            f"Give both one shape, or use loss='{'binary' if kind == 'labels' else 'mse'}', which knows what belongs together."
        )
    if kind == "labels" and target.is_floating_point():
        _check_shares(loss, target)


def _check_shares(loss: str | Loss, target: Tensor) -> None:
    """Raise `HeadError` for labels outside 0..1, NaN aside."""
    if bool(((target < 0) | (target > 1)).any()):
        known = target[~target.isnan()] if target.is_floating_point() else target
        raise HeadError(
            f"loss '{show(loss)}' reads labels from 0 to 1, and this target holds {float(known.min()):g} to "
            f"{float(known.max()):g}. Real values: loss mse, l1 or huber. One class a sample: its index, with cross_entropy."
        )


def _are_shares(target: Tensor, axis: int) -> bool:
    tolerance = 1e-3 if target.dtype in (torch.float32, torch.float64) else 2e-2
    return bool((target >= -tolerance).all()) and bool(((target.float().sum(axis) - 1).abs() < tolerance).all())
