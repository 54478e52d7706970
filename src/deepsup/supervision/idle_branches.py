"""Branches whose terms all have weight 0: their heads get zeros, and the trunk nothing at all, whatever they compute.

Multiplying a loss by 0 is not enough: 0 times infinity is not a number, and a gradient of zeros where the plain model has
none lets weight decay move what nothing trains.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepsup import schedules
from deepsup.plans.plan import Branch, Plan
from deepsup.terms import ENSEMBLE, GATE, MAIN, Edge


class Grounded(torch.autograd.Function):
    """What a head gives out, unchanged; where no gradient comes back for any of it, the head's `parameters` get zeros, which
    DistributedDataParallel waits for, and nothing goes further down. Called with the number of outputs, outputs, parameters.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.parameters = tensors[count:]
        return tuple(t.view_as(t) for t in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        idle = all(g is None for g in gradients)
        return (None, *gradients, *(torch.zeros_like(p) if idle else None for p in ctx.parameters))


class Aside(torch.autograd.Function):
    """The total, unchanged; the `outputs` beside it belong to its graph, and get no gradient: not even zeros."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, *outputs: Tensor) -> Tensor:
        ctx.count = len(outputs)
        return total.view_as(total)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (gradient, *[None] * ctx.count)


def grounded(outputs: dict[str, Tensor], parameters: Iterable[nn.Parameter], *, idle: bool) -> dict[str, Tensor]:
    """A head's outputs, such that without a gradient its parameters get zeros. In a compiled graph, whose gradients are
    always there, that holds for a head that is known to be `idle` before it runs."""
    learning = [p for p in parameters if p.requires_grad]
    with_graph = {name: t for name, t in outputs.items() if t.requires_grad}
    if not learning or not with_graph:
        return outputs
    if not torch.compiler.is_compiling():
        found = Grounded.apply(len(with_graph), *with_graph.values(), *learning)
        return outputs | dict(zip(with_graph, found, strict=True))
    if not idle:
        return outputs
    nothing = torch.stack([p.flatten()[:0].sum().float() for p in learning]).sum()  # a sum of no number, with a graph
    return outputs | {name: t.detach() + nothing.to(t) for name, t in with_graph.items()}


def aside(total: Tensor, found: Mapping[str, Tensor], edges: Iterable[Edge], idle: Collection[Edge]) -> Tensor:
    """The total with the outputs in its graph that idle terms alone would send a gradient to.

    Outputs of a head of which another output learns get zeros: what lies between that and them belongs to no other.
    """
    learning = {name for e in edges if e not in idle for name in touched(e)}
    heads = {name.partition("/")[0] for name in learning} - {MAIN}
    quiet = {name: found[name] for e in idle for name in touched(e) if name in found and name not in learning}
    linked = {name: t for name, t in quiet.items() if t.requires_grad}
    compiled = torch.compiler.is_compiling()  # zeros, as a compiled graph knows no missing gradient
    zeros = [t for name, t in linked.items() if compiled or name.partition("/")[0] in heads]
    if zeros:
        total = total + torch.stack([t.flatten()[:0].sum().to(total) for t in zeros]).sum()
    silent = [] if compiled else [t for name, t in linked.items() if name.partition("/")[0] not in heads]
    aside: Tensor = Aside.apply(total, *silent) if silent else total
    return aside


def absent(parameters: Iterable[nn.Parameter], like: Tensor) -> Tensor:
    """What stands for the output of a head that did not run: no number, (0,), with a graph to its parameters."""
    found = [p.flatten()[:0].to(like) for p in parameters]
    return torch.cat(found) if found else like.new_zeros(0)


def is_absent(output: Tensor) -> bool:
    """Whether an output stands for one that was not made, because the model skipped the layer."""
    return output.ndim == 1 and not len(output)


def touched(edge: Edge) -> tuple[str, ...]:
    """The outputs that a term sends a gradient to."""
    return (edge.source,) if edge.detach else (edge.source, edge.target)


def idle(plan: Plan, progress: float | None) -> frozenset[str]:
    """The branches of a plan all of whose terms have weight 0 at this progress; where it is not known, at any."""
    return frozenset(b.name for b in plan.branches if all(_is_zero(w, progress) for w in _weights(b, plan)))


def _weights(branch: Branch, plan: Plan) -> list[Any]:
    mixed = (ENSEMBLE,) if branch.predicts or branch.name == GATE else ()
    names = {*branch.outputs, *mixed}
    own = [] if branch.loss == "none" else [branch.weight]
    return [*own, *(e.weight for e in plan.edges if names & set(touched(e)))]


def _is_zero(weight: Any, progress: float | None) -> bool:
    if progress is None:
        return isinstance(weight, schedules.constant) and weight.value == 0
    return bool(weight(progress) == 0)
