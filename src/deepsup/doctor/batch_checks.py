"""Traps of the batches: their sizes, and what a method compares in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deepsup.doctor.findings import FORWARD_FAILED, Finding, error
from deepsup.layers.dry_run import as_call
from deepsup.plans.plan import Plan

ONE_CROP = error(
    "one-crop",
    why="The method compares two crops of each image: it would take different images for the same one, and the first training "
    "step stops instead",
    fix="Cat both crops, model(torch.cat([crop1, crop2])), and repeat the labels, torch.cat([y, y]); with settings data.views=2",
)
NO_OVERLAP = error(
    "no-overlap",
    why="The method compares what the model says of a sample with what it said of it one batch ago: there is nothing to learn "
    "from, and training stops after a step or two",
    fix="Wrap your batches, deepsup.evaluation.loaders.overlapping(batches); with settings data.overlap=true",
)


def no_batch(sample: Any) -> Finding | None:
    """What is given in place of a batch by mistake: nothing, a loader, a dataset."""
    loads = isinstance(sample, (DataLoader, Dataset, Iterator)) or (
        hasattr(sample, "dataset") and hasattr(sample, "__iter__")
    )
    if sample is not None and not loads:
        return None
    given = "None" if sample is None else f"a {type(sample).__name__}"
    fix = "Pass a batch, not the loader: sample, target = next(iter(loader))"
    return FORWARD_FAILED.found("sample", f"it is {given}", fix=fix)


def length(sample: Any) -> int:
    """How many samples a model's input holds."""
    args, kwargs = as_call(sample)
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.ndim]
    return len(max(tensors, key=lambda t: t.ndim)) if tensors else 1


def doubled(sample: Any, target: Any) -> tuple[Any, Any]:
    """Sample and target of a lone input of one sample, twice: batch normalisation needs two."""
    if not isinstance(sample, Tensor) or not sample.ndim or len(sample) != 1:
        return sample, target
    twice = [2] + [1] * (target.ndim - 1) if isinstance(target, Tensor) and target.ndim else []
    return sample.repeat(2, *[1] * (sample.ndim - 1)), target.repeat(twice) if twice and len(target) == 1 else target


def sizes_of(batches: Any) -> set[int] | None:
    """The batch sizes of an epoch, as far as they can be told without reading a batch; None if not at all."""
    if isinstance(batches, DataLoader):
        size, sampler = batches.batch_size, batches.sampler
        try:
            total = len(sampler)  # type: ignore[arg-type]
        except TypeError:
            return None
        if not size:
            return None
        left = 0 if batches.drop_last else total % size
        return ({size} if total >= size else set()) | ({left} if left else set())
    if isinstance(batches, (list, tuple)):
        return {length(b[0]) for b in batches if isinstance(b, (list, tuple)) and b}
    return None


def batching(plan: Plan, sample: Any, target: Any, batches: Any) -> Iterator[Finding]:
    """Batches that lack what the method compares: a second crop of each image, or the samples of the batch before."""
    labels = target if isinstance(target, Tensor) and target.ndim else None
    size = length(sample) if labels is None else len(labels)
    if plan.views == 2 and (size % 2 or (labels is not None and not torch.equal(*labels.chunk(2)))):
        batch = "the sample" if labels is None else "the target"
        said = f"{batch} is of {size}, an odd number" if size % 2 else f"the two halves of these {size} labels differ"
        what = f"method '{plan.method}' needs batches [crops 1; crops 2] with the labels repeated, and {said}"
        yield ONE_CROP.found("batch", what)
    first, second = _labels_of_two(batches)
    if plan.overlap and first is not None and second is not None:
        # Of the first batch of all every sample is new, of a later one the second half.
        if not any(begins_with(second, new) for new in (first, first[len(first) // 2 :])):
            what = f"method '{plan.method}' learns from the batch before, and by its {len(second)} labels the second of these "
            what += f"batches does not begin with the new samples of the first (of {len(first)})"
            yield NO_OVERLAP.found("batches", what)


def begins_with(labels: Tensor, new: Tensor) -> bool:  # (N, ...) and (M, ...)
    """Whether a batch begins with these samples and brings more."""
    return len(labels) > len(new) and torch.equal(labels[: len(new)], new.to(labels.device))


def _labels_of_two(batches: Any) -> tuple[Tensor | None, Tensor | None]:
    """The labels of the first two batches of a list; others are not read, which could move a sampler."""
    if not isinstance(batches, (list, tuple)):
        return None, None
    pairs = [b for b in batches[:2] if isinstance(b, (list, tuple)) and len(b) == 2]
    found = [y for _, y in pairs if isinstance(y, Tensor) and y.ndim]
    return (found[0], found[1]) if len(found) == 2 else (None, None)
