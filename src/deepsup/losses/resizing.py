"""Label maps at another size: how a target meets scores of fewer places. Labels are never interpolated linearly.

A map of labels (N, H, W) becomes (N, h, w), or shares of classes (N, C, h, w), by one of three policies:

nearest    the label in the middle of each cell (nnU-Net, MONAI's nearest-exact, CSAIL's loader)
area       the share of each class in each cell, over the places that count: soft labels
preserve   of the classes in a cell, the one that is rarest in the batch: thin things stay
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup.errors import ClassCountError, ConfigError
from deepsup.losses.labels import IGNORE, free_to_look, label_message


class LostClassesWarning(UserWarning):
    """A branch whose labels are shrunk never sees some of the classes in a batch."""


# By how many axes of places there are.
_MEAN: dict[int, Callable[..., Tensor]] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_LARGEST: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}
POLICIES = ("nearest", "area", "preserve")


def shrink(
    target: Tensor, size: Sequence[int], *, how: str = "nearest", classes: int | None = None, ignore_index: int = IGNORE
) -> Tensor:
    """A label map (N, *places) of integers at `size`: labels again, or for `how="area"` shares (N, classes, *size).

    Works for sequences, maps and volumes. `area` and `preserve` look at every place, see `class_counts`, and need
    `classes`; a cell where nothing counts is `ignore_index`, or has shares of 0. Shares in a cell sum to 1, or to 0.
    Raises `ConfigError` for a policy that there is not.
    """
    if how not in POLICIES:
        raise ConfigError(f"no target policy is called {how!r}. Choose: {', '.join(POLICIES)}.")
    size, target = tuple(size), target.long()
    if how == "nearest":
        return _nearest(target, size)
    if classes is None:
        raise ConfigError(f"the target policy '{how}' needs classes=, the number of classes.")
    counts = class_counts(target, size, classes=classes, ignore_index=ignore_index)
    if how == "area":
        return counts / counts.sum(1, keepdim=True).clamp(min=1)
    whole = counts.sum((0, *range(2, counts.ndim)), dtype=torch.float64)
    rarity = torch.where(whole > 0, whole.max() + 1 - whole, 0.0).view(1, -1, *[1] * len(size))
    found, rarest = ((counts > 0) * rarity).max(1)
    return torch.where(found > 0, rarest, ignore_index)


def shrink_values(
    values: Tensor,  # (N, C, *places), where they count a number
    counts: Tensor,  # of the same shape, 0 where a value does not count
    size: Sequence[int],
    *,
    how: str = "area",
) -> tuple[Tensor, Tensor]:
    """Numbers at `size`, and whether each counts: by `area` the mean over the places of a cell that count, weighted by
    how much of each lies in it; by `nearest` the one in its middle; by `preserve` the largest.

    Raises `ConfigError` for a policy that there is not.
    """
    if how not in POLICIES:
        raise ConfigError(f"no target policy is called {how!r}. Choose: {', '.join(POLICIES)}.")
    size = tuple(size)
    if how == "nearest":
        picked = (_nearest(x.flatten(0, 1), size).view(*x.shape[:2], *size) for x in (values, counts))
        return next(picked), next(picked)
    if how == "preserve":
        lowest = torch.where(counts > 0, values, torch.finfo(values.dtype).min)
        there = _LARGEST[len(size)](counts, size)
        return torch.where(there > 0, _LARGEST[len(size)](lowest, size), 0.0), there
    mean = _MEAN[len(size)]
    share = mean(counts, size)
    return mean(values * counts, size) / torch.where(share > 0, share, 1.0), (share > 0).to(counts.dtype)


def class_counts(target: Tensor, size: Sequence[int], *, classes: int, ignore_index: int = IGNORE) -> Tensor:
    """How many places of each class every cell of a map of `size` holds: float32 (N, classes, *size), whole numbers.

    Each place of the target (N, *places) is in one cell, the one that its middle lies in; those labelled `ignore_index`
    are in none. Raises `ClassCountError` for a label outside 0..classes-1, on a GPU PyTorch's own assertion.
    """
    n, size, target = target.shape[0], tuple(size), target.long()
    cell = torch.zeros((), dtype=torch.int64, device=target.device)
    for new, old in zip(size, target.shape[1:], strict=True):
        cell = (cell * new).unsqueeze(-1) + _middles(old, new, target.device)
    counted = target != ignore_index
    cells = int(torch.Size(size).numel())
    row = torch.arange(n, device=target.device).view(-1, *[1] * len(size))
    index = (row * classes + torch.where(counted, target, 0)) * cells + cell
    if free_to_look(target) and bool(((target < 0) | (target >= classes)).logical_and(counted).any()):
        raise ClassCountError(label_message(classes, target, ignore_index))
    counts = torch.zeros(n * classes * cells, device=target.device)
    counts.scatter_add_(0, index.flatten(), counted.flatten().to(counts.dtype))  # sums of ones: exact in any order
    return counts.view(n, classes, *size)


def one_hot(target: Tensor, classes: int, ignore_index: int = IGNORE) -> Tensor:
    """Labels (N, *places) as float32 (N, classes, *places), all 0 where a label does not count."""
    target = target.long()
    counted = target != ignore_index
    hot = torch.zeros(target.shape[0], classes, *target.shape[1:], device=target.device)
    return hot.scatter_(1, torch.where(counted, target, 0).unsqueeze(1), counted.unsqueeze(1).to(hot.dtype))


def lost_classes(
    target: Tensor, size: Sequence[int], *, how: str = "nearest", ignore_index: int = IGNORE
) -> tuple[int, ...]:
    """The classes that a target has and would have no more at `size`; reads numbers back, so a GPU is waited for.

    By `area` none is lost. Example: a thin line of class 2 that no cell has in its middle: `(2,)` by `nearest`.
    """
    target = target.long()
    before = torch.unique(target[target != ignore_index])
    if how == "area" or not before.numel():
        return ()
    after = shrink(target, size, how=how, classes=int(before.max()) + 1, ignore_index=ignore_index)
    return tuple(sorted(set(before.tolist()) - set(torch.unique(after).tolist())))


def _nearest(target: Tensor, size: tuple[int, ...]) -> Tensor:
    """By the places in the middle of the cells; indices, because interpolation would need floats, which hold no large label."""
    for axis, (new, old) in enumerate(zip(size, target.shape[1:], strict=True), 1):
        if new != old:
            target = target.index_select(axis, _middles(new, old, target.device))
    return target


def _middles(count: int, among: int, device: torch.device) -> Tensor:
    """Of `count` cells side by side, in which of `among` ones the middle of each lies; in whole numbers, so exact."""
    return (2 * torch.arange(count, device=device) + 1) * among // (2 * count)
