"""The parts that figures are put together from, as the plain dicts plotly takes: panels, lines, bands, levels, legends.

Nothing here imports plotly: a figure is data until the page draws it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from deepsup.reports import colours
from deepsup.reports.colours import EDGE, GRID, INK, MUTED, PAPER
from deepsup.reports.curves import Curve
from deepsup.reports.formats import short

Figure = dict[str, Any]

FONT: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
DASHES: Final = ("dot", "dash", "dashdot", "longdash", "longdashdot", "5px,2px")

MOST: Final = 3
"""Panels that stand side by side at most."""

_GAP = 0.045  # between columns of panels, as a share of the width
_BETWEEN = 34  # between rows of panels; this and the margins are pixels
_TOP, _BOTTOM = 42, 60
_SILENT: Figure = {"showticklabels": False, "ticks": ""}
_AXIS: Figure = {
    "gridcolor": GRID,
    "linecolor": EDGE,
    "tickcolor": EDGE,
    "tickfont": {"color": MUTED, "size": 12},
    "ticks": "outside",
    "ticklen": 4,
    "zeroline": False,
    "automargin": True,
}


def beside(titles: Sequence[str], *, height: int, right: int = 28) -> Figure:
    """Return an empty figure with one panel for each title, side by side, with the scale of their y axes in common.

    More than `MOST` panels go on below. `height` (of one line of panels) and `right` (the right margin) are pixels.
    """
    lines = math.ceil(len(titles) / MOST)
    figure = grid(titles, rows=[height - _TOP - _BOTTOM], right=right)
    if lines > 1:
        _fold(figure, lines=lines, line=height - _TOP - _BOTTOM)
    return figure


def _fold(figure: Figure, *, lines: int, line: int) -> None:
    """Lay the panels of a row out in several lines, each `line` pixels high."""
    layout = figure["layout"]
    n = sum(key.startswith("xaxis") for key in layout)
    across = math.ceil(n / lines)
    gap = _TOP + _BOTTOM
    inner = lines * line + (lines - 1) * gap
    width = (1 - _GAP * (across - 1)) / across
    for panel in range(n):
        down, left = panel // across, panel % across * (width + _GAP)
        upper = 1 - down * (line + gap) / inner
        axis(figure, "x", panel)["domain"] = [left, left + width]
        axis(figure, "y", panel)["domain"] = [max(0.0, upper - line / inner), upper]
        if panel % across == 0:
            axis(figure, "y", panel).update(showticklabels=True, ticks="outside")
    layout["height"] += inner - line


def grid(titles: Sequence[str], *, rows: Sequence[int], captions: Sequence[str] = (), right: int = 28) -> Figure:
    """Return an empty figure with one column of panels for each title, and in it panels of the heights `rows`, in pixels.

    Panels count down the first column, then down the next. A column has its x axis in common, a row its y axis.
    `captions` (markup, one a row) stand over the panels. The first annotations of the layout are the headings, one a panel.
    """
    captions = captions or [""] * len(rows)
    inner = sum(rows) + _BETWEEN * (len(rows) - 1)
    top = _TOP + (18 if captions[0] and any(titles) else 0)
    layout: Figure = {
        "height": inner + top + _BOTTOM,
        "margin": {"l": 70, "r": right, "t": top, "b": _BOTTOM},
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": colours.clear(PAPER, 0),
        "plot_bgcolor": colours.clear(PAPER, 0),
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": FONT}, "namelength": -1},
        "showlegend": False,
        "annotations": [],
        "shapes": [],
    }
    n = len(titles)
    width = (1 - _GAP * (n - 1)) / max(n, 1)
    for column, title in enumerate(titles):
        left = column * (width + _GAP)
        for row, height in enumerate(rows):
            panel, upper = column * len(rows) + row, 1 - (sum(rows[:row]) + _BETWEEN * row) / inner
            x = {"domain": [left, left + width], "anchor": _ref("y", panel), "showline": True}
            y = {"domain": [max(0.0, upper - height / inner), upper], "anchor": _ref("x", panel)}
            last = (column + 1) * len(rows) - 1
            layout[_key("x", panel)] = _AXIS | x | ({} if panel == last else _SILENT | {"matches": _ref("x", last)})
            layout[_key("y", panel)] = _AXIS | y | (_SILENT | {"matches": _ref("y", row)} if column else {})
            layout["annotations"].append(_heading("" if row else title, captions[row], panel))
    return {"data": [], "layout": layout}


def _heading(title: str, caption: str, panel: int) -> Figure:
    """Return a title, and a caption under it, over the left end of a panel."""
    place = {"xref": f"{_ref('x', panel)} domain", "yref": f"{_ref('y', panel)} domain", "x": 0, "y": 1}
    small = f'<span style="font-size: 12.5px; color: {MUTED}">{caption}</span>'
    lines = [text for text, given in ((f"<b>{plain(title)}</b>", title), (small, caption)) if given]
    look = {"xanchor": "left", "yanchor": "bottom", "align": "left", "showarrow": False, "font": {"size": 14}}
    return place | look | {"text": "<br>".join(lines), "yshift": 2 if caption else 8}


def axis(figure: Figure, letter: str, panel: int) -> Figure:
    """Return the axis of a panel, to be changed in place; `letter` is "x" or "y"."""
    found: Figure = figure["layout"].setdefault(_key(letter, panel), {})
    return found


def line(curve: Curve, *, name: str, colour: str, width: float, panel: int, value: str, dash: str = "solid") -> Figure:
    """Return the mean of a curve as a line; `value` is the d3 format of y in the label under the mouse."""
    return {
        "type": "scatter",
        "mode": "lines" if len(curve.x) > 1 else "markers",
        "name": plain(name),
        "legendgroup": plain(name),
        "x": list(curve.x),
        "y": list(curve.mean),
        "line": {"color": colour, "width": width, "dash": dash},
        "marker": {"color": colour},
        "hovertemplate": f"%{{fullData.name}}<br>%{{x}}: %{{y:{value}}}<extra></extra>",
    } | on(panel)


def band(curve: Curve, *, colour: str, panel: int, faint: bool = False) -> list[Figure]:
    """Return the shade between the smallest and the largest run; nothing where there is only one."""
    if curve.low == curve.high or len(curve.x) < 2:
        return []
    x, low, high = list(curve.x), list(curve.low), list(curve.high)
    shade = {
        "type": "scatter",
        "mode": "lines",
        "fill": "toself",
        "fillcolor": colours.clear(colour, 0.07 if faint else 0.16),
    }
    outline = {"x": x + x[::-1], "y": high + low[::-1], "line": {"width": 0}}
    return [shade | outline | {"hoverinfo": "skip", "showlegend": False} | on(panel)]


def on(panel: int) -> Figure:
    """Return what puts a trace on a panel."""
    return {"xaxis": _ref("x", panel), "yaxis": _ref("y", panel)}


def depth_bar(figure: Figure, layers: Sequence[str], tones: Sequence[str]) -> None:
    """Add an invisible trace whose colour bar is the legend: one band a layer, the first at the bottom."""
    n = len(layers)
    scale = [[(i + edge) / n, colour] for i, colour in enumerate(tones) for edge in (0, 1)]
    shown = some(n)
    bar = {"title": {"text": "layer", "side": "top"}, "thickness": 14, "len": 1.0, "outlinewidth": 0, "ticks": ""}
    bar |= {
        "tickvals": shown,
        "ticktext": [plain(short(layers[i])) for i in shown],
        "tickfont": {"size": 11.5, "color": MUTED},
    }
    figure["layout"]["coloraxis"] = {"cmin": -0.5, "cmax": n - 0.5, "colorscale": scale, "colorbar": bar}
    hidden = {"x": [None], "y": [None], "hoverinfo": "skip", "showlegend": False}
    marker = {"color": [0], "coloraxis": "coloraxis"}
    figure["data"].append({"type": "scatter", "mode": "markers", "marker": marker} | hidden)


def some(n: int, *, most: int = 16) -> list[int]:
    """Return at most `most` evenly spaced indices below `n`, the first and the last among them."""
    ticks = min(n, most)
    return [round(i * (n - 1) / (ticks - 1)) for i in range(ticks)] if ticks > 1 else list(range(n))


def logarithmic(figure: Figure, panel: int, limits: tuple[float, float], *, ticks: int = 10) -> None:
    """Make the y axis of a panel logarithmic, from a little below the smaller limit to a little above the larger.

    At most `ticks` powers of ten are named.
    """
    low, high = math.log10(limits[0]) - 0.35, math.log10(limits[1]) + 0.35
    step = max(1, math.ceil((high - low) / ticks))  # in powers of ten
    axis(figure, "y", panel).update(type="log", range=[low, high], exponentformat="power", dtick=step)


def shares(figure: Figure, values: Sequence[float], *, fine: bool = False) -> tuple[float, float]:
    """Fit the y axes of all panels to these shares, in steps that can be read, and return their ends.

    `fine` allows steps below one percent.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    steps = (*((0.001, 0.002, 0.005) if fine else ()), 0.01, 0.02, 0.05, 0.1, 0.2)
    step = next(s for s in steps if (high - low) / s <= 8 or s == 0.2)
    low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    for panel in range(sum(key.startswith("yaxis") for key in figure["layout"])):
        spare = 0.02 * (high - low)
        axis(figure, "y", panel).update(range=[low - spare, high + spare], tickformat=".0%", dtick=step, tick0=0)
        if step < 0.01:
            axis(figure, "y", panel)["tickformat"] = ".1%"
    return low, high


def by_layer(figure: Figure, panel: int, layers: Sequence[str]) -> None:
    """Put the layers on the x axis of a panel, in this order; long names are cut, and of many layers some are named."""
    named = [layers[i] for i in some(len(layers), most=26)]
    title = {"text": "layer, from the input to the output", "standoff": 10}
    order = {"type": "category", "categoryorder": "array", "categoryarray": list(layers)}
    ticks = {"tickvals": named, "ticktext": [plain(short(name)) for name in named], "tickangle": -45}
    axis(figure, "x", panel).update(order | ticks | {"title": title})


def level(figure: Figure, value: float, *, panel: int, text: str = "", log: bool = False, left: bool = False) -> None:
    """Draw a dotted horizontal line over the whole width of a panel, its label under the right (or over the left) end."""
    place = {"xref": f"{_ref('x', panel)} domain", "yref": _ref("y", panel)}
    ends = {"type": "line", "x0": 0, "x1": 1, "y0": value, "y1": value}
    figure["layout"]["shapes"].append(place | ends | {"line": {"color": MUTED, "width": 1.2, "dash": "dot"}})
    if not text:
        return
    height = math.log10(value) if log else value  # plotly wants the exponent here, the value in a shape
    where = {"x": 0 if left else 1, "y": height, "xanchor": "left" if left else "right"}
    label = {
        "text": text,
        "showarrow": False,
        "yanchor": "bottom" if left else "top",
        "bgcolor": colours.clear(PAPER, 0.8),
    }
    figure["layout"]["annotations"].append(place | where | label | {"font": {"size": 11.5, "color": MUTED}})


def below(figure: Figure, value: float, *, panel: int) -> None:
    """Draw a line over the whole width of a panel at `value`, and shade what lies under it."""
    place = {"xref": f"{_ref('x', panel)} domain", "yref": _ref("y", panel), "x0": 0, "x1": 1, "y0": value}
    line = {"type": "line", "y1": value, "line": {"color": MUTED, "width": 1.2}}
    bottom = min(value, axis(figure, "y", panel)["range"][0])
    shade = {
        "type": "rect",
        "y1": bottom,
        "line": {"width": 0},
        "fillcolor": colours.clear(colours.MARK, 0.1),
        "layer": "below",
    }
    figure["layout"]["shapes"] += [place | shade, place | line]


def with_legend(figure: Figure) -> Figure:
    """Show each name once, above the panels, and make room for as many rows as the names will need."""
    names: dict[str, None] = {}
    for trace in figure["data"]:
        if trace.get("showlegend", True):
            trace["showlegend"] = trace["legendgroup"] not in names
            names[trace["legendgroup"]] = None
    room = legend_height(names, 880)
    layout = figure["layout"]
    layout["showlegend"] = True
    layout["legend"] = {"orientation": "h", "x": 0, "xanchor": "left", "yref": "container", "y": 1, "yanchor": "top"}
    layout["legend"] |= {"font": {"size": 12.5}, "bgcolor": colours.clear(PAPER, 0)}
    layout["margin"]["t"] += room
    layout["height"] += room
    return figure


def legend_height(names: Iterable[str], width: float) -> int:
    """Return about how many pixels a legend needs above the panels if it is so many pixels wide."""
    rows, left = 0, 0.0
    for name in names:
        entry = 50 + 7 * len(name)
        if entry > left:
            rows, left = rows + 1, width
        left -= entry
    return max(0, 28 * rows - 6)


def plain(text: str) -> str:
    """Escape what plotly would take for markup in a name."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _key(letter: str, panel: int) -> str:
    return f"{letter}axis{panel + 1 if panel else ''}"


def _ref(letter: str, panel: int) -> str:
    return f"{letter}{panel + 1 if panel else ''}"
