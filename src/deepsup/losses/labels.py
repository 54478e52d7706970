"""Class labels: which of them count, and what is said when there is no class for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import torch
from torch import Tensor

from deepsup.errors import ClassCountError
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
            " If 255 marks what does not count, say so for all outputs: plan(..., main_loss='cross_entropy(ignore_index=255)'), "
            "in settings loss=; or label it -100."
        )
    return (
        f"the outputs have {classes} classes (labels 0..{classes - 1}), but the target holds labels {low}..{high}. Build the "
        f"model with as many classes as the data, or fix the labels.{void}"
    )


def check_labels(classes: int, target: Tensor, ignore_index: int = IGNORE) -> None:
    """Raise `ClassCountError` when a class index in `target` is outside 0..classes-1 and not `ignore_index`."""
    if target.is_floating_point() or target.numel() == 0:
        return
    strange = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if bool(strange.any()):
        raise ClassCountError(label_message(classes, target, ignore_index))
