"""What may stand around a model, and the model inside: torch.compile, DataParallel, DistributedDataParallel, Fabric, FSDP."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.parallel import DistributedDataParallel

_PARALLEL = (nn.DataParallel, DistributedDataParallel)
_INSIDE = ("_orig_mod", "_forward_module", "_original_module")  # torch.compile's, and Fabric's


def chain(module: nn.Module, *, any_module: bool = False) -> Iterator[nn.Module]:
    """A module, what it wraps, what that wraps, and so on.

    With `any_module` also through whatever has a `module`, as averages of weights do; a model's own layer may be called so.
    """
    inner: nn.Module | None = module
    while inner is not None:
        yield inner
        names = (*_INSIDE, "module") if any_module or isinstance(inner, _PARALLEL) else _INSIDE
        inside = (getattr(inner, name, None) for name in names)
        inner = next((m for m in inside if isinstance(m, nn.Module)), None)


def bare(module: nn.Module) -> nn.Module:
    """The module inside all wrappers."""
    return list(chain(module))[-1]


def clean(layer: str) -> str:
    """A layer's name without the part that `torch.compile` adds."""
    return ".".join(part for part in layer.split(".") if part != "_orig_mod")


def is_compiled(module: nn.Module) -> bool:
    """Whether this very module was compiled, by `torch.compile(module)` or `module.compile()`."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def is_sharded(model: nn.Module) -> bool:
    """Whether a part of the model is spread over processes by FSDP."""
    return any(type(m).__name__.startswith(("FSDP", "FullyShardedDataParallel")) for m in model.modules())
