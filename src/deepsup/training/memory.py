"""What a training step costs in memory, measured before the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from deepsup.doctor.patient import twin
from deepsup.evaluation.devices import Run, called, forward
from deepsup.evaluation.loaders import Batch
from deepsup.layers.snapshot import untouched
from deepsup.supervision.attaching import Supervised
from deepsup.supervision.objectives import Objective

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def saved_bytes(
    net: nn.Module, objective: Objective, batch: Batch, fabric: Fabric | None = None, how: Run = called
) -> int:
    """How many bytes autograd keeps from the forward of one training step for its backward.

    Every storage counts once, whole; weights and buffers, which are there anyway, do not count. The same on every device
    but for what kernels keep for themselves. `net`, `objective` and the random state are left as they were.
    """
    weights = {_place(tensor) for tensor in (*net.parameters(), *net.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # held on to, so that no address is used again

    def keep(tensor: Tensor) -> Tensor:
        if _place(tensor) not in weights:
            kept[_place(tensor)] = tensor.untyped_storage()
        return tensor

    goal = twin(objective)
    x, y = batch
    with untouched(net), torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        if not net.training:
            net.train()
        if isinstance(net, Supervised):
            net.set_progress(0.0)
        goal(forward(net, x, fabric, how), y, progress=0.0)
    return sum(storage.nbytes() for storage in kept.values())


def peak_bytes(device: torch.device, *, reset: bool = False) -> int | None:
    """The most memory that tensors took on a CUDA device since the last `reset`; None on any other."""
    if device.type != "cuda":
        return None
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.max_memory_allocated(device)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
