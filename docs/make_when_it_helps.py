"""Writes table and picture of docs/when-it-helps.md from the committed comparisons: `python docs/make_when_it_helps.py`.

Every comparison in benchmarks/results, each arm against its baseline, judged by the rule of today. The text is by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from deepsup import networks
from deepsup.comparisons.results import judge
from deepsup.reports.summary import baseline, evidence
from deepsup.settings import configs

PAGE, PICTURE = Path(__file__).with_name("when-it-helps.md"), Path(__file__).with_name("when-it-helps.png")
RESULTS = Path(__file__).parents[1] / "benchmarks/results"
TABLE = re.compile(r"(<!-- table -->\n).*?(<!-- end -->)", flags=re.S)
HEAD = [
    "comparison",
    "network",
    "weighted layers",
    "normalisation",
    "epochs",
    "seeds",
    "arm",
    "points",
    "interval",
    "verdict",
]
COLOURS = {"helps": "#1a7f37", "hurts": "#b42318"}


class Row(NamedTuple):
    """One arm of one comparison: on what it was tried, and what came out."""

    comparison: str
    network: str
    layers: int
    normalised: str
    epochs: int
    arm: str
    verdict: dict[str, Any]

    def cells(self) -> list[str]:
        """As the table shows it."""
        low, high = (f"{100 * self.verdict[end]:+.1f}" for end in ("ci_low", "ci_high"))
        where = f"[{self.comparison}](../benchmarks/results/{self.comparison})"
        said = [
            where,
            self.network,
            str(self.layers),
            self.normalised,
            str(self.epochs),
            str(self.verdict["n"]),
            self.arm,
        ]
        return [*said, f"{100 * self.verdict['mean_difference']:+.1f}", f"{low} to {high}", self.verdict["verdict"]]


def rows() -> Iterator[Row]:
    """All of them, comparison by comparison."""
    for file in sorted(RESULTS.glob("*/compare.json")):
        cells = configs.load(file.with_name("config.yaml"), []).expand()
        found = {(cell.group, cell.arm): cell.config for cell in cells}
        groups = [{**group, "baseline": baseline(group)} for group in evidence(file.parent).compare["groups"]]
        for group in judge(groups, confidence=0.95, correction="holm"):
            for arm, verdict in group["verdicts"].items():
                config = found[group["name"], arm]
                built = networks.build(config.model, classes=10, in_channels=3, size=64, options=config.model_options)
                weighted = sum(any(p.ndim > 1 for p in m.parameters(recurse=False)) for m in built.modules())
                norm = next(
                    (type(m).__name__ for m in built.modules() if isinstance(m, nn.modules.batchnorm._NormBase)), "none"
                )
                name = arm if len(groups) == 1 else f"{group['name']}/{arm}"
                model = config.model.removeprefix("deepsup:")
                yield Row(file.parent.name, model, weighted, norm, config.epochs, name, verdict)


def render(page: str, found: list[Row]) -> str:
    """The page with the table as it should be."""
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in found)]
    return TABLE.sub(lambda match: match[1] + "".join(f"| {' | '.join(line)} |\n" for line in lines) + match[2], page)


def draw(found: list[Row]) -> None:
    """Every difference with its interval, one line an arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.27 * len(found) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(found):
        low, mean, high = (100 * row.verdict[key] for key in ("ci_low", "mean_difference", "ci_high"))
        colour = COLOURS.get(row.verdict["verdict"], "#57606a")
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(mean, place, "o", color=colour, markersize=5)
    axes.set_yticks(range(len(found)), [f"{row.comparison}: {row.arm}" for row in found], fontsize=8)
    axes.axvline(0, color="#24292f", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=10)
    ticks = [-100, -50, -20, -10, -5, 0, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [f"{tick:+}" if tick else "0" for tick in ticks], fontsize=8)
    axes.set_xlim(-110, 110)
    axes.set_xlabel(
        "points better than its baseline, and the interval; logarithmic beyond 10. Green: helps", fontsize=8
    )
    axes.invert_yaxis()
    axes.grid(axis="x", color="#d0d7de", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    everything = list(rows())
    PAGE.write_text(render(PAGE.read_text("utf-8"), everything), "utf-8")
    draw(everything)
