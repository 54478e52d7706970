"""Losses as pure functions of (prediction, target); each returns a scalar tensor.

A branch names its loss by a key of `LOSSES`, or brings any callable of the same form.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.nn import functional as F

from .errors import ClassCountError, ConfigError, HeadError

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Softmax cross-entropy, averaged over the batch.

    `prediction` holds raw scores (N, C, ...); `target` holds class indices (N, ...) or class probabilities (N, C, ...).
    Raises `HeadError` when the shapes do not fit and `ClassCountError` for an index that is not below C.
    """
    soft = target.is_floating_point()
    expected = tuple(prediction.shape) if soft else (prediction.shape[0], *prediction.shape[2:])
    if prediction.ndim < 2 or tuple(target.shape) != expected:
        indices = (prediction.shape[0], *prediction.shape[2:])
        if soft and tuple(target.shape) == indices:
            raise HeadError(f"the target has class indices of dtype {target.dtype}; convert them: target.long().")
        kind = "probabilities" if soft else "class indices"
        raise HeadError(
            f"a prediction of shape {tuple(prediction.shape)} needs {kind} of shape {expected}; found a target of shape "
            f"{tuple(target.shape)}. Give this branch a head (or main=) whose output fits the target."
        )
    try:
        return F.cross_entropy(prediction, target)
    except IndexError:
        raise ClassCountError(label_message(prediction.shape[1], target)) from None


def label_message(classes: int, target: Tensor) -> str:
    """The text of a `ClassCountError`."""
    return (
        f"the outputs have {classes} classes (labels 0..{classes - 1}), but the target holds labels "
        f"{int(target.min())}..{int(target.max())}. Build the model with as many classes as the data, or fix the labels."
    )


def check_labels(classes: int, target: Tensor) -> None:
    """Raise `ClassCountError` when a class index in `target` is outside 0..classes-1 (-100 is PyTorch's "ignore")."""
    if target.is_floating_point() or target.numel() == 0:
        return
    low, high = int(target.min()), int(target.max())
    if high >= classes or (low < 0 and low != -100):
        raise ClassCountError(label_message(classes, target))


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy}


def get(loss: str | Loss) -> Loss:
    """The loss of that name, or the callable itself. Raises `ConfigError` naming the known ones."""
    if callable(loss):
        return loss
    if loss not in LOSSES:
        close = difflib.get_close_matches(str(loss), LOSSES, n=1, cutoff=0.3)
        hint = f" Closest: {close[0]}." if close else ""
        raise ConfigError(f"no loss is called {loss!r}.{hint} Losses: {', '.join(LOSSES)}; or pass a function.")
    return LOSSES[loss]


def show(loss: str | Loss) -> str:
    """A loss as a plan prints it."""
    return loss if isinstance(loss, str) else f"custom:{getattr(loss, '__name__', type(loss).__name__)}"
