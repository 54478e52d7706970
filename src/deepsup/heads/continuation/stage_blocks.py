"""Which blocks of a model make up its stages, read from its modules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from torch import nn
from torch.nn.modules.conv import _ConvNd

from deepsup.layers.dry_run import CONTAINERS


class Stage(NamedTuple):
    """Blocks of one class that run one after the other at one resolution."""

    container: str
    blocks: tuple[str, ...]  # their names within the container

    @property
    def paths(self) -> list[str]:
        """Their names in the model."""
        return [f"{self.container}.{name}".lstrip(".") for name in self.blocks]

    def __str__(self) -> str:
        return f"{len(self.blocks)} in '{self.container or self.blocks[0]}'"


def stages_of(model: nn.Module) -> list[Stage]:
    """Every stage of the model, in the order of its modules.

    Blocks of one class that stand side by side in a container, or are all that a module has, are a stage; one that has a
    convolution with a stride begins another. A block holds two weight-bearing layers or more, or one where it is of the
    class of all others in its container and the container no part of another module: that may run beside others.
    """
    return _within(model, "")


def following(model: nn.Module, layer: str, ran: Sequence[str]) -> list[Stage]:
    """The stages that run after `layer` ("" for all), in that order, without the blocks that run before or around it.

    `ran` holds the names of layers in the order in which they returned.
    """
    place = {name: i for i, name in reversed(list(enumerate(ran)))}
    start = place[layer] if layer else -1

    def when(path: str) -> int:  # inside a module that is seen as one, when that returned
        while path and path not in place:
            path = path.rpartition(".")[0]
        return place.get(path, -1)

    found = []
    for stage in stages_of(model):
        pairs = zip(stage.blocks, stage.paths, strict=True)
        after = [name for name, path in pairs if when(path) > start and not f"{layer}.".startswith(f"{path}.")]
        if after:
            found.append(Stage(stage.container, tuple(after)))
    return sorted(found, key=lambda s: when(s.paths[0]))


def _within(module: nn.Module, path: str, *, straight: bool = True) -> list[Stage]:
    """The stages inside a module; `straight` where only containers lie around it, so that nothing runs beside it."""
    children = list(module.named_children())
    plain = isinstance(module, CONTAINERS)
    inside = {
        n: _within(c, f"{path}.{n}".lstrip("."), straight=straight and isinstance(c, CONTAINERS)) for n, c in children
    }
    kinds = {type(child) for _, child in children}
    uniform = len(kinds) == 1 and not kinds & set(CONTAINERS)
    least = 1 if straight and plain and uniform and len(children) > 1 else 2
    blocks = {name for name, child in children if not inside[name] and _weighted(child) >= least}
    found: list[Stage] = []
    for key, group in groupby(children, key=lambda c: (c[0] in blocks, type(c[1]))):
        run = list(group)
        if key[0] and ((plain and len(run) > 1) or (uniform and len(run) == len(children) > (not plain))):
            found += [Stage(path, tuple(names)) for names in _by_resolution(run)]
        else:
            found += [stage for name, _ in run for stage in inside[name]]
    return found


def _by_resolution(run: list[tuple[str, nn.Module]]) -> list[list[str]]:
    found: list[list[str]] = []
    for name, block in run:
        if not found or has_stride(block):
            found.append([])
        found[-1].append(name)
    return found


def has_stride(block: nn.Module) -> bool:
    """Whether a convolution in the block has a stride."""
    return any(isinstance(m, _ConvNd) and max(m.stride) > 1 for m in block.modules())


def _weighted(module: nn.Module) -> int:
    """How many weight-bearing layers a module has; 0 for a layer that has no others inside."""
    if not any(True for _ in module.children()):
        return 0
    return sum(any(p is not None and p.ndim >= 2 for p in m._parameters.values()) for m in module.modules())
