"""Class labels: which of them count, and what is said when there is no class for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import torch
from torch import Tensor

from deepsup.errors import ClassCountError, HeadError
from deepsup.specs import WHOLE, Limit, is_number

FREE_TO_LOOK = ("cpu",)  # devices for which looking at a number costs nothing
IGNORE = -100  # PyTorch's label for a place that does not count


# Options that several losses have.
IgnoreIndex: TypeAlias = Annotated[int, WHOLE]
ClassWeight: TypeAlias = Annotated[
    Sequence[float] | None,
    Limit(
        "a list of numbers of at least 0, one a class, or None",
        lambda v: v is None or (isinstance(v, (list, tuple)) and all(is_number(w) and w >= 0 for w in v)),
    ),
]


def free_to_look(tensor: Tensor) -> bool:
    """Whether a number of this tensor can be read without waiting, and without breaking a graph that is being compiled."""
    return tensor.device.type in FREE_TO_LOOK and not torch.compiler.is_compiling()


def label_message(classes: int, target: Tensor, ignore_index: int = IGNORE) -> str:
    """The text of a `ClassCountError`."""
    counted = target[target != ignore_index]
    low, high = (int(counted.min()), int(counted.max())) if counted.numel() else (ignore_index, ignore_index)
    void = ""
    if (classes, high) == (1, 1):
        void = " One channel tells two classes apart by a sigmoid: loss='binary'."
    if high == 255 and ignore_index != 255:
        void = (
            " If 255 marks what does not count, say so for all outputs: plan(..., loss='cross_entropy(ignore_index=255)'), "
            "in settings loss=; or label it -100."
        )
    return (
        f"the outputs have {classes} classes (labels 0..{classes - 1}), but the target holds labels {low}..{high}. Build the "
        f"model with as many classes as the data, or fix the labels.{void}"
    )


def as_classes(
    name: str, prediction: Tensor, target: Tensor, *, probabilities: bool = False, sizes: bool = False
) -> Tensor:
    """Class indices (N, *places) as int64, from any type of whole numbers, also (N, 1, *places); or `probabilities`
    (N, C, *places) as they are.

    The places may be as many as they like in each direction, unless `sizes` must be the scores'. Raises `HeadError` that
    names the loss for what does not fit.
    """
    shape, given = tuple(prediction.shape), tuple(target.shape)
    soft = target.is_floating_point() or target.is_complex()
    if prediction.ndim >= 2 and soft and probabilities and given == shape and shape[1] > 1:
        return target
    axis_of_one = prediction.ndim >= 2 and target.ndim == prediction.ndim and given[1] == 1
    labels = target.squeeze(1) if axis_of_one else target
    fits = (
        labels.ndim == prediction.ndim - 1
        and given[:1] == shape[:1]
        and (not sizes or tuple(labels.shape[1:]) == shape[2:])
    )
    if prediction.ndim < 2 or soft or not fits:
        raise HeadError(_unfit(name, prediction, target))
    if shape[1] == 1 and name in ("cross_entropy", "squared_hinge"):
        raise HeadError(
            f"loss '{name}' tells classes apart by one score each, and the output has a single one, {shape}: over it a softmax "
            "is always 1. Two classes by one score are loss='binary'."
        )
    return labels.long()


def is_multi_hot(prediction: Tensor, target: Tensor) -> bool:
    """Whether a target has a label for every score (N, C, *places) of the prediction, and is no map of class indices.

    Places may differ in size. Of one channel whole numbers (N, 1, *places) are class indices, as (N, *places) are.
    """
    if prediction.ndim < 2 or (prediction.shape[1] == 1 and not target.is_floating_point()):
        return False
    same = target.ndim == prediction.ndim and target.shape[:2] == prediction.shape[:2]
    return same or (prediction.shape[1] == 1 and target.ndim == prediction.ndim - 1)


def _unfit(name: str, prediction: Tensor, target: Tensor) -> str:
    shape, given = tuple(prediction.shape), tuple(target.shape)
    said = f"loss '{name}' holds scores of shape {shape}, (N, C, ...), against class indices (N, ...)"
    found = f"found a target of shape {given} and dtype {target.dtype}"
    if given == shape or (target.is_floating_point() and shape[1:2] == (1,)):
        kind = "several labels a sample: binary. Real values: mse, l1, huber. One class a sample: its index"
        return f"{said}, and {found}. That fits {kind}, or probabilities as floats."
    if target.is_floating_point():
        return f"{said} of whole numbers; {found}. Class indices: target.long(). Real values: loss mse, l1 or huber."
    return f"{said}; {found}. Give this branch a head (or main=) whose output fits the target, or say its axis: classes_axis=."


def check_labels(classes: int, target: Tensor, ignore_index: int = IGNORE) -> None:
    """Raise `ClassCountError` when a class index in `target` is outside 0..classes-1 and not `ignore_index`."""
    if target.is_floating_point() or target.numel() == 0:
        return
    strange = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if bool(strange.any()):
        raise ClassCountError(label_message(classes, target, ignore_index))
