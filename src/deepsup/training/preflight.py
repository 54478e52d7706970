"""The doctor's look at a run before its first step."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import Optimizer

from deepsup import doctor
from deepsup.doctor.findings import ERROR, Diagnosis
from deepsup.objectives import Objective

from . import checkpoints
from .feeds import Feed

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def examine(
    net: nn.Module, objective: Objective, optimizer: Optimizer, train: Feed, fabric: Fabric
) -> Diagnosis | None:
    """Diagnose `net`, on its device but not wrapped yet, with the first batch; None where there is no batch.

    Findings that would spoil the training are warned of. The batch is drawn without moving the random state.
    """
    before = checkpoints.rng_state()
    try:
        batch = next(train.epoch(0), None)
    finally:
        checkpoints.set_rng_state(before)
    if batch is None:
        return None
    x, y = fabric.to_device(batch)
    found = doctor.diagnose(net, x, y, objective=objective, optimizer=optimizer, batch_sizes=train.batch_sizes)
    for finding in found.findings:
        if finding.severity == ERROR:
            warnings.warn(f"the doctor found a trap: {finding}", stacklevel=2)
    return found
