"""The parts that figures are put together from: panels sized in pixels, lines with their shade, levels, axes, legends.

A figure is drawn by one function that takes its width. `inline` puts it into a page, as wide as a desk's screen and as
narrow as a phone's; `save` makes a PNG of it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deepsup.files import write_atomically
from deepsup.reports.colours import EDGE, GRID, INK, MUTED, PAPER
from deepsup.reports.curves import Curve
from deepsup.reports.formats import magnitude, short
from deepsup.specs import require
from deepsup.tasks import is_share

Axes = Any  # matplotlib's: its own types forbid the options that its documentation shows

WIDE: Final = 900
NARROW: Final = 358
"""Pixels: what a page has room for on a desk's screen, and on a phone's."""

MOST: Final = 3
"""Panels that stand side by side at most."""

_LOOK: Final = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), MUTED),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.edgecolor"), EDGE),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 11),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "grid.color": GRID,
    "legend.fontsize": 11.5,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollar signs is a name
}
_LETTER: Final = 6.6  # pixels that a letter takes about
_TITLE, _BETWEEN, _GAP = 28, 16, 18  # pixels over the first of a column's panels, over the others, and between columns


@dataclass
class Sheet:
    """A figure while it is drawn: panels of these `heights` one below the other for each title, each title a column.

    All measures are pixels: `width` of the whole, `left` and `bottom` the room for the labels of an axis, `right` for what
    stands beside the panels. Columns that have no room side by side go on below. `caption` is said under the figure.
    """

    titles: Sequence[str]
    heights: Sequence[int]
    width: int
    left: float = 74
    right: float = 20
    bottom: float = 46
    caption: str = ""
    figure: Any = field(init=False)
    panels: list[Axes] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.figure = _mpl("figure").Figure(dpi=72)
        rows = len(self.heights)
        for i in range(len(self.titles) * rows):
            shared = self.panels[i % rows] if i >= rows else None
            panel = self.figure.add_axes((0, 0, 1, 1), label=str(i), sharey=shared)
            first = not i // rows % self.across
            panel.tick_params(left=first, labelleft=first, labelbottom=i % rows == rows - 1)
            panel.set_title("" if i % rows else short(self.titles[i // rows], int(self.inner / 7.6)), loc="left")
            self.panels.append(panel)

    @property
    def across(self) -> int:
        """How many columns stand side by side."""
        lines = math.ceil(len(self.titles) / (MOST if self.width >= WIDE else 1))
        return math.ceil(len(self.titles) / lines)

    @property
    def inner(self) -> float:
        """The width of a panel."""
        return (self.width - self.left - self.right - _GAP * (self.across - 1)) / self.across

    def labels(self, *, x: str, y: str | Sequence[str]) -> None:
        """Name the axes: x under the last panel of each column, y of each row left of the first."""
        rows = [y] if isinstance(y, str) else y
        for i, panel in enumerate(self.panels):
            column, row = divmod(i, len(rows))
            panel.set_xlabel(x if row == len(rows) - 1 else "")
            panel.set_ylabel("" if column % self.across else rows[row], rotation_mode="anchor")

    def laid_out(self) -> Sheet:
        """Put every panel in its place, below a legend that names each line once, those of a zorder of 3 first."""
        top = self._legend()
        block = _TITLE + sum(self.heights) + _BETWEEN * (len(self.heights) - 1) + self.bottom
        tall = top + block * math.ceil(len(self.titles) / self.across)
        self.figure.set_size_inches(self.width / 72, tall / 72)
        for i, panel in enumerate(self.panels):
            column, row = divmod(i, len(self.heights))
            line, place = divmod(column, self.across)
            under = top + line * block + _TITLE + sum(self.heights[: row + 1]) + _BETWEEN * row
            left, height = self.left + place * (self.inner + _GAP), self.heights[row]
            panel.set_position((left / self.width, 1 - under / tall, self.inner / self.width, height / tall))
        return self

    def _legend(self) -> float:
        named: dict[str, Any] = {}
        for panel in self.panels:
            for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
                named.setdefault(name, handle)
        if not named:
            return 0
        names = sorted(named, key=lambda name: named[name].get_zorder() < 3)
        columns = max(1, int((self.width - 8) // (44 + wide(names))))
        look: dict[str, Any] = {"loc": "upper left", "borderpad": 0.2, "borderaxespad": 0.5, "columnspacing": 1.2}
        self.figure.legend([named[name] for name in names], names, ncols=min(columns, len(names)), **look)
        return 18.5 * math.ceil(len(names) / columns) + 10


Draw = Callable[..., Sheet | None]
"""Draws a figure of a `width`; None where there is nothing to draw."""


def inline(draw: Draw, name: str) -> tuple[str, str]:
    """Return a figure as SVG to stand in a page, wide and narrow, and its caption; empty where nothing is drawn.

    `name` tells figures of one page apart.
    """
    found, caption = "", ""
    for kind, width in (("wide", WIDE), ("narrow", NARROW)):
        drawn = io.StringIO()
        with _mpl("").rc_context(_LOOK | {"svg.hashsalt": f"{name} {kind}"}):
            sheet = draw(width=width)
            if sheet is None:
                return "", ""
            unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            sheet.figure.savefig(drawn, format="svg", transparent=True, metadata=unsaid)
        size = f"0 0 {width} {72 * sheet.figure.get_figheight():g}"
        _, _, body = drawn.getvalue().partition("</defs>")  # the first are a style, which the page has
        found += f'<svg class="{kind}" viewBox="{size}">' + re.sub(r'<g id="[^"]*"', "<g", body)
        caption = sheet.caption
    return found, caption


def save(draw: Draw, out_png: str | Path) -> Path:
    """Write a figure as PNG: twice as many pixels as it is wide, for sharp screens."""
    out = Path(out_png)
    with _mpl("").rc_context(_LOOK):
        sheet = draw(width=WIDE)
        assert sheet is not None
        look: dict[str, Any] = {"format": "png", "dpi": 144, "facecolor": PAPER, "metadata": {"Software": None}}
        write_atomically(out, lambda unfinished: sheet.figure.savefig(unfinished, **look))
    return out


def line(panel: Axes, x: Sequence[Any], y: Sequence[float], *, colour: str, name: str = "", **look: Any) -> None:
    """Draw a line, or the one point that there is; the legend has it by its `name`."""
    label = f"\u2060{name}" if name.startswith("_") else name  # of others matplotlib's legend knows nothing
    panel.plot(x, y, label=label, color=colour, **({} if len(x) > 1 else {"marker": "o"}) | look)


def mean(panel: Axes, curve: Curve, *, colour: str, shade: float = 0, **look: Any) -> None:
    """Draw the mean of a curve, and a shade as strong as `shade` from the smallest to the largest run where there are several."""
    line(panel, curve.x, curve.mean, colour=colour, **look)
    if shade and curve.low != curve.high and len(curve.x) > 1:
        panel.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=shade, linewidth=0)


def level(panel: Axes, value: float, *, text: str = "", left: bool = False) -> None:
    """Draw a dotted line over the whole width of a panel, its label under the right (or over the left) end."""
    panel.axhline(value, color=MUTED, linewidth=1.2, linestyle=":")
    look: dict[str, Any] = {"xycoords": panel.get_yaxis_transform(), "textcoords": "offset points", "color": MUTED}
    look |= {"xytext": (4, 3), "ha": "left"} if left else {"xytext": (-2, -4), "ha": "right", "va": "top"}
    behind = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0}
    if text:
        panel.annotate(text, (0 if left else 1, value), fontsize=11, bbox=behind, **look)


def logarithmic(panel: Axes, limits: tuple[float, float], *, most: int = 8) -> None:
    """Make the y axis logarithmic, from a little below the smaller limit to a little above the larger, so many powers named."""
    panel.set(yscale="log", ylim=(limits[0] / 2.2, limits[1] * 2.2))
    panel.yaxis.set_major_locator(_mpl("ticker").LogLocator(numticks=most))
    panel.yaxis.set_minor_locator(_mpl("ticker").NullLocator())
    panel.yaxis.set_major_formatter(lambda value, _: magnitude(value))


def wide(texts: Iterable[str]) -> float:
    """Return about how many pixels the longest of these texts takes."""
    return _LETTER * max(map(len, texts), default=0)


def shares(axis: Any, metric: str = "") -> None:
    """Write the numbers of an axis in percent, unless those of this metric are none."""
    if is_share(metric):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


def whole(panel: Axes) -> None:
    """Let the x axis name whole numbers alone: epochs, iterations."""
    panel.xaxis.set_major_locator(_mpl("ticker").MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10]))


def some(n: int, *, most: int = 16) -> list[int]:
    """Return at most `most` evenly spaced indices below `n`, the first and the last among them."""
    ticks = min(n, most)
    return [round(i * (n - 1) / (ticks - 1)) for i in range(ticks)] if ticks > 1 else list(range(n))


def under_layers(layers: Sequence[str]) -> float:
    """Return about how many pixels the labels of an axis `by_layer` take."""
    return 52 + 0.7 * wide(short(layer, 14) for layer in layers)


def by_layer(panel: Axes, layers: Sequence[str], *, room: float) -> None:
    """Name the places 0, 1, ... of the x axis, which has `room` pixels, after layers: of many layers some."""
    shown = some(len(layers), most=int(room / 15))
    panel.set_xticks(shown, [short(layers[i], 14) for i in shown], rotation=45, ha="right", rotation_mode="anchor")


def layer_bar(sheet: Sheet, tones: Mapping[str, str]) -> None:
    """Draw the colours of layers right of the first panels of a sheet that is laid out, the first layer at the bottom."""
    _, bottom, _, height = sheet.panels[0].get_position().bounds
    bar = sheet.figure.add_axes((1 - (sheet.right - 14) / sheet.width, bottom, 12 / sheet.width, height))
    bar.bar([0] * len(tones), 1, 1, bottom=range(len(tones)), color=list(tones.values()))
    shown = some(len(tones))
    bar.set(xlim=(-0.5, 0.5), ylim=(0, len(tones)), xticks=[])
    bar.set_yticks([i + 0.5 for i in shown], [short(list(tones)[i], 12) for i in shown])
    bar.tick_params(left=False, labelleft=False, labelright=True)
    bar.grid(visible=False)
    bar.spines[:].set_visible(False)
    bar.set_title("layer", fontsize=11, fontweight="normal")


def _mpl(module: str) -> Any:
    return require(f"matplotlib.{module}".rstrip("."), purpose="a figure", install="deepsup[report]")
