"""What the command line shows as tables, built here and printed there: for any width of the terminal, without wrapping."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from deepsup import reports
from deepsup.layers.dry_run import Trace
from deepsup.methods import Method
from deepsup.plans.plan import millions
from deepsup.probes import Probe
from deepsup.probes.magnitudes import average
from deepsup.probes.placement import HEADINGS, OTHERS, RIGHT, Recommendation, figures

BAR = 16  # characters at most
SHOWN = 6  # missing runs that are named
SHORTEST = 4  # bars are left out where there is no room for so many characters


class _Column(NamedTuple):
    title: str
    cells: Sequence[str]
    right: bool = True
    rank: int = 0  # where there is no room, the column with the highest rank goes first; 0 stays


def layer_table(seen: Trace, *, every: bool = False) -> Table:
    """One row a layer: type, output, depth, stride, parameters; where the trunk can be tapped, or `every` module."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{seen.model}: {millions(seen.params)} parameters", title_justify="left")
    for title in ("layer", "type", "output", "layout"):
        table.add_column(title, overflow="fold")
    for title in ("depth", "stride", "params"):
        table.add_column(title, justify="right", overflow="fold" if title == "depth" else "ellipsis")
    for name in seen.layers if every else seen.trunk:
        table.add_row(*_layer_row(seen, name))
    return table


def _layer_row(seen: Trace, name: str) -> list[str]:
    layer = seen.layers[name]
    note = {0: "never called"}.get(layer.calls, f"called {layer.calls} times" if layer.calls > 1 else "")
    shape = note or (str(layer.feature) if layer.feature else layer.problem and "no tensor")
    layout = layer.feature.layout if layer.feature and not note else ""
    depth = f"{layer.depth:.0%}" if layer.calls else ""
    return [name, layer.type, shape, layout, depth, str(layer.stride or ""), millions(layer.params)]


def comparison(result: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What came of a comparison: arms, score over depth, verdicts, what is missing, and the strip certificates."""
    yield reports.comparison_table(result)
    if line := reports.inference_line(result):
        yield Text(line, style="dim")
    if (table := reports.depth_table(result)) is not None:
        yield table
    if max(len(reports.judged(group)) for group in result["groups"]) > 1:
        yield reports.verdict_table(result)
        yield from (Text(remark, style="yellow") for remark in reports.remarks(result))
    else:
        yield from map(Text, reports.verdict_lines(result))
    if (looks := reports.look_table(result)) is not None:
        yield looks
    missing = result.get("missing") or []
    if missing:
        some = ", ".join([*missing[:SHOWN], *(["..."] if len(missing) > SHOWN else [])])
        yield Text(f"{len(missing)} runs are missing: {some}. The same command goes on with them.", style="yellow")
    proofs = result["certificates"]
    identical = sum(proof["identical"] for proof in proofs)
    yield Text(f"strip: {identical} of {len(proofs)} supervised models identical to the plain model")


def of_output(name: str) -> str:
    """An output's name after what it says; nothing for the main one."""
    return "" if name == "main" else f" ({name})"


def probe_table(found: Probe, width: int = 80) -> RenderableType:
    """One row a weight-bearing layer: how large its gradients are, how many have vanished, how large its activations."""
    rows = found.rows
    columns = [
        _Column("layer", [row.layer for row in rows], right=False),
        _Column("depth", [f"{row.depth:.0%}" for row in rows], rank=1),
        _Column("mean", [f"{row.mean:.1e}" for row in rows]),
        _Column("p5", [f"{average(row.weight.p5):.1e}" for row in rows], rank=2),
        _Column("gone", [f"{average(row.weight.vanished):.0%}" for row in rows]),
        _Column("act.", [f"{average(row.activation):.1e}" for row in rows], rank=3),
        _Column("tap after", [row.tap or "" for row in rows], right=False),
    ]
    table = _table(columns, width)
    room = min(BAR, width - _width(table) - 3)  # of which three are the space around a column
    bars = _bars([row.mean for row in rows], room)
    if room >= SHORTEST and any(bars):
        table = _table([*columns[:3], _Column("", bars, right=False), *columns[3:]], width)
    return Group(
        Text(f"{found.model}: |gradient| of each layer's weights, {found.iterations} iterations, top loss only"),
        table,
        Text(f"p5: 5th percentile; gone: share under {found.threshold:g}; act.: mean |activation|", style="dim"),
    )


def recommendation_table(advice: Recommendation, width: int = 80) -> RenderableType:
    """The places that a rule chose, starred, and the next weakest; what the head would cost there."""
    shown = advice.rows[: len(advice.at) + OTHERS]
    cells = [["*" if row.chosen else "", row.layer, *figures(row)] for row in shown]
    ranks = {"chan.": 3, "stride": 2, "depth": 1}
    columns = [
        _Column(title, [line[i] for line in cells], i in RIGHT, ranks.get(title, 0)) for i, title in enumerate(HEADINGS)
    ]
    table = _table(columns, width, bold=[row.chosen for row in shown])
    left = len(advice.rows) - len(shown)
    return Group(table, Text(f"and {left} more with stronger gradients", style="dim")) if left else table


def method_card(method: Method) -> RenderableType:
    """What a method does, and its facts by title."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for title, text in method.facts().items():
        if text != "-":
            facts.add_row(Text(f"  {title}", style="dim"), Text(text))
    return Group(Text.assemble((method.name, "bold"), f"  {method.summary}"), facts)


def rule_lines(found: Probe, *, threshold: float, factor: float) -> Iterator[str]:
    """What each rule that reads gradients would choose: what it does, then the setting, ready to paste into a shell."""
    for rule, says in (
        ("threshold", f"up to the deepest layer below {threshold:g}, as in CNDS"),
        ("drop", f"wherever it fell to 1/{factor:g} of that at the branch above"),
    ):
        chosen = found.recommend(rule, threshold=threshold, factor=factor)
        yield f"by rule '{rule}', {says}:"
        yield f"  {setting(chosen) if chosen else 'no layer'}"


def setting(layers: Sequence[str]) -> str:
    """`"supervise.at=[relu5,relu7]"`: one word for a shell, whose quotes keep the brackets from it."""
    names = [name if yaml.safe_load(name) == name else f"'{name}'" for name in layers]  # '0' is a name, 0 a number
    return f'"supervise.at=[{",".join(names)}]"'


def _table(columns: Sequence[_Column], width: int, *, bold: Sequence[bool] = ()) -> Table:
    """The columns side by side, without those for which there is no room."""
    left = list(columns)
    while True:
        table = Table(box=box.SIMPLE_HEAD)
        for column in left:
            table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
        for i, cells in enumerate(zip(*(column.cells for column in left), strict=True)):
            table.add_row(*cells, style="bold" if bold and bold[i] else "")
        least = max(left, key=lambda column: column.rank)
        if _width(table) <= width or not least.rank:
            return table
        left.remove(least)


def _width(table: Table) -> int:
    """Of a table that has all the room that it wants."""
    return Console(width=10_000, markup=False, emoji=False).measure(table).maximum


def _bars(values: Sequence[float], room: int) -> list[str]:
    """Bars on a logarithmic scale, 1 to `room` characters; none for 0, nor where all values are the same."""
    positive = [value for value in values if value > 0]
    smallest, largest = min(positive, default=1.0), max(positive, default=1.0)
    if smallest == largest:
        return [""] * len(values)
    scale = (room - 1) / math.log(largest / smallest)
    return ["█" * (1 + round(scale * math.log(value / smallest))) if value > 0 else "" for value in values]
