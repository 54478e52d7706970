"""What stands on a figure that was drawn: lines by their name in the legend, and texts."""

from __future__ import annotations

import re
from typing import Any

from matplotlib.colors import to_hex

from deepsup.reports.panels import Sheet


def lines(panel: Any) -> dict[str, Any]:
    """The lines that the legend names, by name."""
    return dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))


def points(line: Any) -> list[tuple[float, float]]:
    return list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))


def colour(line: Any) -> str:
    return str(to_hex(line.get_color()))


def legend(sheet: Sheet) -> list[str]:
    """The names in the legend, in their order."""
    return [text.get_text() for drawn in sheet.figure.legends for text in drawn.get_texts()]


def levels(panel: Any) -> list[float]:
    """The heights of the dotted lines across a panel."""
    return [
        float(line.get_ydata()[0]) for line in panel.lines if line.get_linestyle() == ":" and len(line.get_xdata()) == 2
    ]


def said(panel: Any) -> list[str]:
    """The texts within a panel."""
    return [text.get_text() for text in panel.texts]


def texts(html: str) -> list[str]:
    """Every text of the drawings in a page, as it stands there."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", html)
