"""How a plan prints: its branches as a table, its terms between outputs, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepsup import gradients, heads, losses, schedules
from deepsup.heads.cost import aligned, millions
from deepsup.terms import TARGET, Edge


def table(branches: Sequence[Any]) -> list[str]:
    """The branches (`plan.Branch`), one line each below their titles."""
    head = ["branch", "shape", "depth", "head", "loss", "weight", "gradient", "params", "FLOPs"]
    rows = [
        [
            b.name,
            str(b.feature) + ("" if b.feature.layout in ("NCHW", "NC") else f" {b.feature.layout}"),
            f"{b.depth:.0%}",
            heads.show(b.head),
            str(Edge(b.name, loss=b.loss, bracket=b.bracket)).replace(f"({b.name}, y)", ""),
            f"{b.weight.value:g}" if isinstance(b.weight, schedules.constant) else b.to_dict()["weight"],
            repr(b.gradient),
            millions(b.params),
            millions(b.flops),
        ]
        for b in branches
    ]
    lines = [head, *rows]
    if all(b.gradient == gradients.ADD for b in branches):
        lines = [line[:6] + line[7:] for line in lines]
    return aligned(lines, right={head.index("depth"), len(lines[0]) - 2, len(lines[0]) - 1})


def mimicry(edges: Sequence[Edge]) -> list[str]:
    """Terms between outputs, those of one loss and weight in one line: `  1 * kl: main <- late; late <- main`."""
    groups: dict[str, list[str]] = {}
    for e in edges:
        weight = f"{e.weight.value:g}" if isinstance(e.weight, schedules.constant) else schedules.show(e.weight)
        arrow = f"{e.source}, {e.target}" if e.target == TARGET else f"{e.source} <- {e.target}"
        groups.setdefault(f"{weight} * {losses.show(e.loss)}", []).append(arrow)
    return [f"  {terms}: {'; '.join(arrows)}" for terms, arrows in groups.items()]


def share(part: int, whole: int) -> str:
    """What a part adds to the whole: `18.9%`, `12 times the`."""
    if not whole:
        return millions(part)
    if part >= 10 * whole:
        return f"{part / whole:.0f} times the"
    return "under 0.1%" if 0 < part / whole < 5e-4 else f"{part / whole:.1%}"
