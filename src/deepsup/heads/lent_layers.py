"""What of a head is the model's own: layers and parameters that the model lends, which a branch uses and nobody touches."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn


class Lent(NamedTuple):
    """The model's layers in a head by their path there, the outermost ones; and its tensors that layers of the head's own
    hold, by key, each with the layer of the model and its name there."""

    layers: dict[str, nn.Module]
    tensors: dict[str, tuple[nn.Module, str]]

    def has(self, key: str) -> bool:
        """Whether what stands under a key in the head is the model's."""
        return key in self.tensors or _inside(key, self.layers)

    def touches(self, path: str) -> bool:
        """Whether the layer at a path in the head is the model's, or has a parameter that is."""
        return self.has(path) or any(key.rpartition(".")[0] == path for key in self.tensors)

    def all_tensors(self) -> Iterator[Tensor]:
        """The model's parameters and buffers in the head."""
        for layer in self.layers.values():
            yield from (*layer.parameters(), *layer.buffers())
        yield from (getattr(owner, name) for owner, name in self.tensors.values())


def lent(head: nn.Module, model: nn.Module | None) -> Lent:
    """What `model` lends to a head, told by identity; nothing where there is no model."""
    layers: dict[str, nn.Module] = {}
    if model is None:
        return Lent(layers, {})
    theirs = {id(m) for m in model.modules()}
    for path, module in head.named_modules(remove_duplicate=False):
        if id(module) in theirs and not _inside(path, layers):
            layers[path] = module
    owners = {
        id(t): (m, name) for m in model.modules() for name, t in (*m._parameters.items(), *m._buffers.items()) if t is not None
    }  # fmt: skip
    held = (*head.named_parameters(remove_duplicate=False), *head.named_buffers(remove_duplicate=False))
    return Lent(layers, {key: owners[id(t)] for key, t in held if id(t) in owners and not _inside(key, layers)})


def _inside(key: str, layers: dict[str, nn.Module]) -> bool:
    return any(not path or key == path or key.startswith(f"{path}.") for path in layers)


def place(head: nn.Module, found: Lent, anchor: Tensor) -> None:
    """Bring what is the head's own to the device and precision of what the model lends it, else of `anchor`."""
    theirs = list(found.all_tensors())
    if not theirs:
        head.to(anchor.device, anchor.dtype)
        return
    lead = next((t for t in theirs if t.is_floating_point()), anchor)
    kept = {id(t) for t in theirs}
    head._apply(  # type: ignore[no-untyped-call]
        lambda t: t if id(t) in kept else t.to(lead.device, lead.dtype if t.is_floating_point() else None)
    )


def tried(head: nn.Module, model: nn.Module | None) -> nn.Module:
    """A head to run before it is attached: itself, or a copy beside the model's layers where the model lends it some."""
    found = lent(head, model)
    theirs = list(found.all_tensors())
    if model is None or not theirs:
        return head
    kept = [*found.layers.values(), *theirs]
    twin = copy.deepcopy(head, {id(thing): thing for thing in kept})
    place(twin, lent(twin, model), theirs[0])
    return twin
