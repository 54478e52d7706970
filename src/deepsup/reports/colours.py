"""The one palette: what the page's CSS, its figures and the still pictures are coloured with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

PAPER: Final = "#ffffff"
INK: Final = "#1f2933"
MUTED: Final = "#5f6b7a"
GRID: Final = "#e6e9ed"
EDGE: Final = "#b8c0c9"  # axes, and the line over a group of a table

BASELINE: Final = "#6b7480"
"""The arm that the others are measured against, in every figure; also the main output beside its branches."""

ACCENT: Final = "#0072b2"  # what is looked at, where there is one thing
MARK: Final = "#d55e00"  # where a branch is, and where branches pull against the rest
HELPS: Final = "#00694b"
HURTS: Final = "#b24400"
NO_EVIDENCE: Final = "#55606e"

_ARMS: Final = (
    ACCENT, MARK, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5e3c99", "#8c510a", "#1b1b1b", "#a50026", "#808000",
)  # fmt: skip
"""Okabe and Ito's colours, which stay apart for colour-blind readers, and five more."""

_DEPTH: Final = ("#3f1d70", "#433e85", "#38588c", "#2d708e", "#25858e", "#1e9b8a", "#2ab07f", "#52c569", "#86d549")
"""Dark to light along the depth: viridis without its palest end, which is hard to see on white."""

_SOLID: Final = 6
"""Arms besides the baseline whose colours stay apart by themselves; the lines of others are dashed."""

CSS: Final = {
    "paper": PAPER,
    "ink": INK,
    "muted": MUTED,
    "line": "#d9dee4",
    "edge": EDGE,
    "soft": "#f6f7f9",
    "accent": ACCENT,
    "helps": HELPS,
    "hurts": HURTS,
    "none": NO_EVIDENCE,
    "notice": "#fff8e6",
    "notice-line": "#ecd9a4",
    "right": "#55585c",  # a place that was labelled right, in pictures of errors
}
"""The page's colours by the name of their variable: `var(--ink)`."""


def of_arms(arms: Collection[str], *, baseline: str | None) -> Iterator[tuple[str, str, str]]:
    """Each arm, its colour, and how its line is drawn where many lie over each other; the baseline's is `BASELINE`."""
    others = [arm for arm in arms if arm != baseline]
    for arm in arms:
        i = others.index(arm) if arm in others else -1
        yield arm, BASELINE if i < 0 else _ARMS[i % len(_ARMS)], "--" if i >= _SOLID else "-"


def depth_colours(n: int) -> list[str]:
    """So many colours from dark (first layer) to light (last layer)."""
    return [_blend(_DEPTH, i / (n - 1) if n > 1 else 0.0) for i in range(n)]


def tint(colour: str, amount: float) -> str:
    """A colour mixed with white: 0 leaves it, 1 is white."""
    return _blend((colour, PAPER), amount)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _blend(anchors: Sequence[str], where: float) -> str:
    position = where * (len(anchors) - 1)
    i = min(int(position), len(anchors) - 2)
    mixed = [
        a + (b - a) * (position - i) for a, b in zip(_channels(anchors[i]), _channels(anchors[i + 1]), strict=True)
    ]
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)
