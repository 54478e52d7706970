"""The doctor's look at a run before its first step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from deepsup import doctor
from deepsup.datasets import Dataset, IdentitySplit
from deepsup.datasets.identity_counts import matches
from deepsup.doctor.findings import ERROR, Diagnosis, Finding, diagnosis
from deepsup.doctor.identity_checks import Drawn, drawing, embedding, searching, shrinking
from deepsup.errors import stacklevel
from deepsup.evaluation.loaders import Batch, Loader, SplitLoader
from deepsup.features import main_prediction
from deepsup.layers.dry_run import trace
from deepsup.layers.last_linear import last_linear
from deepsup.supervision.objectives import Objective
from deepsup.terms import TARGET
from deepsup.training import checkpoints

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TrapWarning(UserWarning):
    """What the doctor found would spoil the training that begins now."""


def first_batch(train: Loader, fabric: Fabric) -> Batch | None:
    """The first batch of training, on its device, drawn without moving the random state; None where there is none.

    Of batches that repeat the one before, the second: the first is shorter than all others.
    """
    before = checkpoints.rng_state()
    try:
        batches = list(islice(train.epoch(0), 2 if getattr(train, "overlap", False) else 1))
    finally:
        checkpoints.set_rng_state(before)
    return fabric.to_device(batches[-1]) if batches else None


def examine(net: nn.Module, objective: Objective, optimizer: Optimizer, batch: Batch, train: Loader) -> Diagnosis:
    """Diagnose `net`, on its device but not wrapped yet, with the first batch of `train`.

    Findings that would spoil the training are warned of.
    """
    x, y = batch
    found = doctor.diagnose(net, x, y, objective=objective, optimizer=optimizer, batch_sizes=train.batch_sizes)
    if isinstance(train, SplitLoader) and isinstance(train.split, IdentitySplit):
        compared = any(edge.target == TARGET and "/" in edge.source for edge in objective.edges)
        found = diagnosis([*found, *drawing(drawn(train.split, train.batch_size, compared=compared))], found.checked)
    for finding in found.findings:
        if finding.severity == ERROR:
            warnings.warn(f"the doctor found a trap: {finding}", TrapWarning, stacklevel=stacklevel())
    return found


def of_identities(
    data: Dataset, batch_size: int, *, compared: bool, model: nn.Module, sample: Any, layer: str | None = None
) -> Iterator[Finding]:
    """What the doctor finds of images of identities, of the maps that the model makes of them, and of what enters `layer`, which
    makes the scores (None: it is found); nothing of other data.
    """
    train, searched = data.train, data.validation
    if not isinstance(train, IdentitySplit) or not isinstance(searched, IdentitySplit):
        return
    sizes = sorted(fact.size for fact in data.files.facts.values()) if data.files else []
    seen = drawn(train, batch_size, compared=compared)
    yield from drawing(replace(seen, stored=sizes[len(sizes) // 2] if sizes else None))
    queries = [name for name, query in zip(searched.names, searched.queries.tolist(), strict=True) if query]
    without = [name for name, found in zip(queries, matches(searched).tolist(), strict=True) if not found]
    yield from searching(without, len(queries), data.files.shared if data.files else ())
    with suppress(Exception):  # a model that cannot run is found by others
        yield from shrinking(trace(model, sample[:2]))
    with suppress(Exception):
        found = last_linear(model, lambda: main_prediction(model(sample[:2]), ()), said=layer)
        yield from embedding(model, found, compared=compared)


def drawn(split: IdentitySplit, batch_size: int, *, compared: bool) -> Drawn:
    """A training split as the doctor looks at it; `compared` says whether a loss compares features."""
    return Drawn(
        split.labels, split.cameras, split.per_identity, batch_size, compared, augment=split.augment, served=split.shape
    )
