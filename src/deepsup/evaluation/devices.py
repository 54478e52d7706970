"""Devices, precision and processes: Lightning Fabric, set up from a few settings.

Fabric is imported when an engine starts, not before: importing it replaces `torch.compile` by a wrapper of its own.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from deepsup.errors import ConfigError, MissingPackageError
from deepsup.layers.dry_run import as_call
from deepsup.settings.training import EngineConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


Run: TypeAlias = Callable[[Any, Any], Any]
"""From a net and a batch's input to its output."""
_precision_before: str | None = None  # of float32 matrix products, while a run with `tf32` has changed it


def start(settings: EngineConfig) -> Fabric:
    """A launched Fabric: one process, `devices` processes, or the processes that `torchrun` has started already."""
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise MissingPackageError(
            'training needs Lightning Fabric, which is not installed: pip install "deepsup[train]".'
        ) from None
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    _allow_tf32(settings.tf32)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", settings.devices))
    world = int(os.environ.get("WORLD_SIZE", local))
    try:
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=local,
            num_nodes=max(1, world // local),
            strategy="ddp" if world > 1 else "auto",
            **_arithmetic(settings),
        )
        fabric.launch()
    except (ValueError, RuntimeError) as error:  # Fabric's own words for "no such device here"
        raise ConfigError(
            f"cannot start the engine with accelerator={settings.accelerator}, devices={local}, "
            f"precision={settings.precision}: {error}. This machine has {torch.cuda.device_count()} CUDA devices."
        ) from error
    return fabric


def _arithmetic(settings: EngineConfig) -> dict[str, Any]:
    """The precision as Fabric is told; on a CPU it would take `bf16-mixed` for `16-mixed`."""
    here = settings.accelerator in ("cpu", "auto") and not (settings.accelerator == "auto" and _has_gpu())
    if settings.precision != "16-mixed" or not here:
        return {"precision": settings.precision}
    from lightning_fabric.plugins import MixedPrecision

    return {"plugins": MixedPrecision("16-mixed", device="cpu")}


def _has_gpu() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def is_main_process() -> bool:
    """Whether this process writes the files, also before an engine has started."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0


def seed_everything(seed: int, *, rank: int = 0) -> None:
    """Start every random stream at `seed`; other ranks get streams of their own, so that their dropout differs."""
    seed += rank * 1_000_003
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        import numpy as np

        np.random.seed(seed % 2**32)


def compiled(net: nn.Module, mode: bool | str = True) -> nn.Module:
    """The compiled net, made after Fabric was imported, because Fabric takes it apart and puts it together again."""
    return torch.compile(net, mode=None if mode is True else str(mode))  # type: ignore[return-value]


def called(net: Callable[..., Any], x: Any) -> Any:
    """The net on a batch's input: a tuple or list are its arguments, a mapping its keyword arguments."""
    args, kwargs = as_call(x)
    return net(*args, **kwargs)


def forward(net: nn.Module, x: Any, fabric: Fabric | None, how: Run = called) -> Any:
    """The bare net's forward in the engine's precision: a wrapper for several processes would wait for the others."""
    if fabric is None:
        return how(net, x)
    precision = fabric.strategy.precision
    with precision.forward_context():
        output = how(net, precision.convert_input(x))
    return precision.convert_output(output)


def channels_last(x: Any) -> Any:
    """Images `(N, C, H, W)` with their channels side by side in memory; anything else as it is."""
    fits = isinstance(x, Tensor) and x.ndim == 4
    return x.contiguous(memory_format=torch.channels_last) if fits else x


def moved(value: Any, device: torch.device) -> Any:
    """A batch's input or target on a device, with all the tensors that are in its lists, tuples and mappings."""
    if isinstance(value, Mapping):
        return {key: moved(part, device) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(moved(part, device) for part in value)
    return value.to(device) if isinstance(value, Tensor) else value


def _allow_tf32(wanted: bool) -> None:
    """Let matrices be multiplied in TF32, or put back what an earlier run in this process has changed."""
    global _precision_before
    if wanted and _precision_before is None:
        _precision_before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
    elif not wanted and _precision_before is not None:
        torch.set_float32_matmul_precision(_precision_before)
        _precision_before = None


def summed(fabric: Fabric, values: Tensor) -> Tensor:
    """The elementwise sum over all processes."""
    if fabric.world_size == 1:
        return values
    total = fabric.all_reduce(values.clone(), reduce_op="sum")
    assert isinstance(total, Tensor)
    return total


def share_buffers(fabric: Fabric, net: nn.Module) -> None:
    """Give every process the first one's buffers, as the next training forward would, and as they are saved.

    Since the last one each process has gone on with its own batch, and has its own running means of normalisation.
    """
    if fabric.world_size == 1:
        return
    for buffer in net.buffers():
        first = buffer.contiguous()
        torch.distributed.broadcast(first, 0)
        buffer.copy_(first)


def gathered(fabric: Fabric, value: Any) -> list[Any]:
    """One plain value of each process, in the order of the ranks."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values
