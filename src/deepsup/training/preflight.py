"""The doctor's look at a run before its first step."""

from __future__ import annotations

import warnings
from itertools import islice
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import Optimizer

from deepsup import doctor
from deepsup.doctor.findings import ERROR, Diagnosis
from deepsup.errors import stacklevel
from deepsup.evaluation.loaders import Batch, Loader, SplitLoader
from deepsup.supervision.objectives import Objective
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
        batches = list(islice(train.epoch(0), 2 if isinstance(train, SplitLoader) and train.overlap else 1))
    finally:
        checkpoints.set_rng_state(before)
    return fabric.to_device(batches[-1]) if batches else None


def examine(
    net: nn.Module, objective: Objective, optimizer: Optimizer, batch: Batch, batch_sizes: set[int] | None
) -> Diagnosis:
    """Diagnose `net`, on its device but not wrapped yet, with the first batch.

    Findings that would spoil the training are warned of.
    """
    x, y = batch
    found = doctor.diagnose(net, x, y, objective=objective, optimizer=optimizer, batch_sizes=batch_sizes)
    for finding in found.findings:
        if finding.severity == ERROR:
            warnings.warn(f"the doctor found a trap: {finding}", TrapWarning, stacklevel=stacklevel())
    return found
