"""What the command line shows as tables, built here and printed there."""

from __future__ import annotations

import math

from rich import box
from rich.table import Table

from .probes import Probe
from .probes.magnitudes import average
from .probes.placements import OTHERS, Recommendation, figures

BAR = 16  # characters


def probe_table(found: Probe) -> Table:
    """One row a weight-bearing layer: how large its gradients are, how many have vanished, how large its activations."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{found.model}: |gradient| of each layer's weights, {found.iterations} iterations of the top loss alone",
        title_justify="left",
        caption=f"vanished: share of the gradients under {found.threshold:g}; activation: mean |value| on the way up",
        caption_justify="left",
    )
    for title in ("layer", "depth", "mean", "", "5th perc.", "vanished", "activation", "tap after"):
        left = title in ("layer", "", "tap after")
        table.add_column(title, justify="left" if left else "right", overflow="fold" if left else "ellipsis")
    means = [row.mean for row in found.rows if row.mean > 0]
    smallest, largest = min(means, default=1.0), max(means, default=1.0)
    for row in found.rows:
        table.add_row(
            row.layer,
            f"{row.depth:.0%}",
            f"{row.mean:.1e}",
            _bar(row.mean, smallest, largest),
            f"{average(row.weight.p5):.1e}",
            f"{average(row.weight.vanished):.0%}",
            f"{average(row.activation):.1e}",
            row.tap or "",
        )
    return table


def recommendation_table(advice: Recommendation) -> Table:
    """The places that a rule chose, starred, and the next weakest; what the default head would cost there."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for title in ("", "layer", "channels", "stride", "depth", "gradient", "head params", "head FLOPs"):
        table.add_column(title, justify="left" if title in ("", "layer") else "right")
    shown = advice.rows[: len(advice.at) + OTHERS]
    for row in shown:
        table.add_row("*" if row.chosen else "", row.layer, *figures(row), style="bold" if row.chosen else "")
    if len(advice.rows) > len(shown):
        table.caption = f"and {len(advice.rows) - len(shown)} more with stronger gradients"
    return table


def _bar(value: float, smallest: float, largest: float) -> str:
    """A bar on a logarithmic scale, 1 to 16 characters; none for 0."""
    if value <= 0 or largest <= smallest:
        return ""
    return "█" * (1 + round((BAR - 1) * math.log(value / smallest) / math.log(largest / smallest)))
