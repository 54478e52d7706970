"""What an objective looks at once, in its first batch: labels that shrinking loses, crops that are no pairs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from deepsup import losses
from deepsup.errors import ConfigError, HeadError
from deepsup.losses.full_size import is_map, lost_classes
from deepsup.losses.resizing import LostClassesWarning
from deepsup.supervision.targets import Targets
from deepsup.terms import TARGET, Edge


def check_targets(edges: Iterable[Edge], found: Mapping[str, Any], targets: Targets) -> None:
    """Hold every target against the output and the loss that it is for. Raises `HeadError` or `ClassCountError`."""
    for edge in edges:
        scores, reads = found.get(edge.source), losses.describe(edge.loss)
        if edge.target != TARGET or not reads.scores or not isinstance(scores, Tensor) or scores.ndim < 2:
            continue
        for target, _ in targets.of(edge.source):
            if isinstance(target, Tensor):
                losses.check_target(edge.loss, scores, target)
                if edge.source == "main":  # where a layer in the middle ends is the model's own business
                    losses.check_places(edge.loss, scores, target)
                if targets.mask is None:
                    losses.check_finite(edge.loss, target)
            elif losses.reads_first_axis(edge.loss):
                raise HeadError(
                    f"the loss of '{edge.source}' ({losses.show(edge.loss)}) reads one tensor, and its target is a "
                    f"{type(target).__name__}. A mapping is {{'main': ..., and a branch's name: ...}}, or "
                    "{'target': ..., 'mask': ...}."
                )
        if targets.mask is not None and losses.reads_first_axis(edge.loss) and "mask" not in losses.asks(edge.loss):
            raise HeadError(
                f"the target has a mask, and the loss of '{edge.source}' ({losses.show(edge.loss)}) reads none: what is masked "
                "would count. Class indices that do not count are -100 (or ignore_index=), labels and values NaN."
            )


def uncounted(
    edges: Iterable[Edge], found: Mapping[str, Any], targets: Targets, before: frozenset[str] | None
) -> frozenset[str]:
    """The terms (of those in `before`) of which not one label or value counts in this batch. Looks at numbers."""
    asked = [e for e in edges if e.target == TARGET and (before is None or e.name in before)]
    return frozenset(
        e.name
        for e in asked
        if losses.describe(e.loss).scores
        and losses.reads_first_axis(e.loss)
        and all(losses.counts_nothing(e.loss, found[e.source], y, targets.mask) for y, _ in targets.of(e.source))
    )


def warn_of_lost(edges: tuple[Edge, ...], found: Mapping[str, Tensor], target: Tensor, names: tuple[str, ...]) -> None:
    """Name the classes of this target that an output never sees, because its labels are shrunk."""
    for edge in edges:
        if edge.target != TARGET or edge.source not in found or not is_map(found[edge.source].shape):
            continue
        lost = lost_classes(found[edge.source], target, edge.loss)
        if lost:
            size = "x".join(map(str, found[edge.source].shape[2:]))
            listed = ", ".join(names[c] if c < len(names) else f"class {c}" for c in lost)
            warnings.warn(
                f"at {size} the labels of '{edge.source}' ({losses.show(edge.loss)}) have lost {listed}, which this batch has: "
                "that output never sees them. Enlarge the scores instead (resize='enlarge'), or shrink labels with "
                "resize='area' or 'preserve'.",
                LostClassesWarning,
                stacklevel=4,
            )


def check_crops(target: Any, method: str) -> None:
    """Raise `ConfigError` where a batch does not hold two crops of each image, by its labels."""
    half = len(target) // 2
    if len(target) % 2 or not torch.equal(target[:half], target[half:]):
        raise ConfigError(
            f"method '{method}' compares two crops of each image: a batch must hold [crops 1; crops 2] with the labels repeated, "
            f"but the two halves of these {len(target)} labels differ. Set data.views=2, or cat both crops in your loop."
        )
