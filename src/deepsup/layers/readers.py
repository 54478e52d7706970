"""Who reads the output of a layer, as the autograd graph of one forward tells. Nodes come as (node, output number, when)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor


def nodes_above(output: Tensor) -> set[Any]:
    """Every node of the autograd graph above `output`; empty when nothing in it requires a gradient."""
    found: set[Any] = set()
    todo: list[Any] = [output.grad_fn] if output.grad_fn else []
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return found


def sequence_number() -> int:
    """Higher than that of every node of the graph so far, lower than that of every later one."""
    with torch._C.DisableTorchFunction():
        node: Any = torch.ones((), requires_grad=True).clone().grad_fn
    return int(node._sequence_nr())


def inside(ancestors: set[Any], nodes: dict[str, tuple[Any, int, int]]) -> set[str]:
    """Layers of which something that leads to the prediction read the output before they had returned it."""
    readers: dict[tuple[Any, int], int] = {}  # the first to read an output, by when
    wanted = {(node, number) for node, number, _ in nodes.values()}
    for reader in ancestors:
        for source in reader.next_functions:
            if source in wanted:
                when = reader._sequence_nr()
                readers[source] = min(when, readers.get(source, when))
    return {name for name, (node, number, end) in nodes.items() if readers.get((node, number), end) < end}


def added(ancestors: set[Any], nodes: dict[str, tuple[Any, int, int]]) -> set[str]:
    """Layers whose output is read by one addition alone, `x + f(x)`: what stands beside it was there before, and others read
    it as well.
    """
    found: dict[tuple[Any, int], list[Any]] = defaultdict(list)
    for reader in ancestors:
        for source in reader.next_functions:
            if source[0] is not None:
                found[source].append(reader)
    return {name for name, (node, number, _) in nodes.items() if _is_update((node, number), found)}


def _is_update(source: tuple[Any, int], found: dict[tuple[Any, int], list[Any]]) -> bool:
    if len(found[source]) != 1 or not type(found[source][0]).__name__.startswith("AddBackward"):
        return False
    beside = [other for other in found[source][0].next_functions if other != source and other[0] is not None]
    return any(
        len(found[other]) > 1
        and hasattr(other[0], "_sequence_nr")
        and other[0]._sequence_nr() < source[0]._sequence_nr()
        for other in beside
        if "AccumulateGrad" not in type(other[0]).__name__
    )
