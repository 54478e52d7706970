"""The same figures on a narrow screen: panels below each other, nothing to scroll sideways, no dragging in the way."""

from __future__ import annotations

import copy
from typing import Any, Final

from deepsup.reports.formats import short
from deepsup.reports.panels import Figure, legend_height, plain, some

WIDTH: Final = 720
"""Pixels up to which a window counts as narrow."""

_LINE: Final = 262  # what a legend can use of a phone's width; this and all below are pixels
_TALL: Final = 230  # the most that one panel takes
_CLOSE, _APART, _NAMES = 6, 62, 74  # gaps: to a panel of the same column, to another; names of layers
_BAR: Final = 72
_COMMON: Final = ("title", "tickformat", "dtick", "range")
_NAMED: Final = ("type", "categoryorder", "categoryarray", "tickvals", "ticktext")


def narrow(figure: Figure) -> Figure:
    """Return the layout for a narrow screen of a figure made by `panels`; the data stay as they are."""
    layout: Figure = copy.deepcopy(figure["layout"])
    panels = [key.removeprefix("xaxis") for key in layout if key.startswith("xaxis")]
    names = [trace["name"] for trace in figure["data"] if trace.get("showlegend")]
    legend = legend_height(names, _LINE) if layout["showlegend"] else 0
    margin: dict[str, Any] = {
        "l": 56,
        "r": 12,
        "t": 8 + _heading(layout, 0) + legend,
        "b": 62,
    }
    if "coloraxis" in layout:
        _lay_down(layout["coloraxis"]["colorbar"])
        margin["b"] += _BAR
    heights = [_height(layout, panel) for panel in panels]
    gaps = [_gap(layout, panel, i) for i, panel in enumerate(panels)]
    inner = sum(heights) + sum(gaps[:-1])
    top = 1.0
    for panel, height, gap in zip(panels, heights, gaps, strict=True):
        layout[f"yaxis{panel}"]["domain"] = [max(0.0, top - height / inner), top]
        top -= (height + gap) / inner
        _alone(layout, panel, many=len(panels) > 1)
    layout.update(height=inner + margin["t"] + margin["b"], margin=margin, dragmode=False)
    return layout


def _height(layout: Figure, panel: str) -> int:
    margin, (bottom, top) = layout["margin"], layout[f"yaxis{panel}"]["domain"]
    inner: float = layout["height"] - margin["t"] - margin["b"]
    return min(_TALL, int(inner * (top - bottom)))


def _gap(layout: Figure, panel: str, index: int) -> int:
    """Return the space that a panel needs below it before the next begins."""
    x, heading = layout[f"xaxis{panel}"], _heading(layout, index + 1)
    if not x.get("showticklabels", True):
        return _CLOSE + heading
    return _APART + (_NAMES if x.get("type") == "category" else 0) + heading


def _heading(layout: Figure, index: int) -> int:
    """Return the height of what stands over a panel."""
    text = str(layout["annotations"][index]["text"]) if index < len(layout["annotations"]) else ""
    return 12 + 19 * (text.count("<br>") + 1) if text else 0


def _alone(layout: Figure, panel: str, *, many: bool) -> None:
    """Give a panel the whole width, and what it had in common with its neighbour."""
    x, y = layout[f"xaxis{panel}"], layout[f"yaxis{panel}"]
    x["domain"] = [0, 1]
    if y.get("matches"):
        first = layout[f"yaxis{y['matches'].removeprefix('y')}"]
        y.update({key: first[key] for key in (*_COMMON, *_NAMED) if key in first})
    y.update(showticklabels=True, ticks="outside")
    if x.get("type") == "category":
        names = x["categoryarray"]
        named = [names[i] for i in some(len(names), most=14)]
        x.update(tickvals=named, ticktext=[plain(short(name, 14)) for name in named])


def _lay_down(bar: dict[str, Any]) -> None:
    """Put a colour bar under the panels, with its two ends named."""
    ends = [0, -1]
    where = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom", "ypad": 4}
    bar.update(where, tickvals=[bar["tickvals"][i] for i in ends], ticktext=[bar["ticktext"][i] for i in ends])
    bar["title"] = {"text": "layer, from the input to the output", "side": "top"}
