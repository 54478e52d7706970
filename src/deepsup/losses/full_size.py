"""Predictions that are maps, outside of losses: at the size of the labels, or several at one size.

>>> probability = losses.probabilities(enlarged(scores, label.shape[1:], "binary"), "binary")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from deepsup.losses import pixelwise, resizing
from deepsup.losses.labels import IGNORE
from deepsup.losses.named import Loss, option, show
from deepsup.losses.values import scaled


def is_map(shape: Sequence[int]) -> bool:
    """Whether scores of this shape, (N, C, *places), have a score for every place."""
    return len(shape) > 2


def enlarged(scores: Tensor, size: Sequence[int], loss: str | Loss = "cross_entropy") -> Tensor:
    """Scores (N, C, *places) at `size`, linearly, as the loss that trained them enlarges them (its `align_corners`); with its
    `flow` they are distances in pixels, and grow with the map.
    """
    wide = pixelwise.enlarge(scores, size, align_corners=bool(option(loss, "align_corners", False)))
    if not option(loss, "flow", False) or tuple(size) == tuple(scores.shape[2:]):
        return wide
    return scaled(show(loss), wide, [new / old for new, old in zip(size, scores.shape[2:], strict=True)])


def alike(scores: Iterable[Tensor], loss: str | Loss = "cross_entropy") -> list[Tensor]:
    """Scores (N, C, *places) all at the size of the largest among them; vectors (N, C) as they are."""
    found = list(scores)
    largest = max((s.shape[2:] for s in found), key=lambda size: size.numel())
    return [enlarged(s, largest, loss) if s.ndim > 2 else s for s in found]


def lost_classes(scores: Tensor, target: Tensor, loss: str | Loss) -> tuple[int, ...]:
    """The classes of a label map that an output with this loss never sees, because its labels are shrunk to the scores.

    Reads numbers back, so a GPU is waited for. Losses that enlarge the scores lose none.
    """
    how = option(loss, "resize", "enlarge")
    fits = target.ndim == scores.ndim - 1 and len(target) == len(scores) and not target.is_floating_point()
    if how not in resizing.POLICIES or not fits or scores.shape[2:] == target.shape[1:]:
        return ()
    ignored = option(loss, "ignore_index", IGNORE)
    return resizing.lost_classes(target, scores.shape[2:], how=how, ignore_index=ignored)
