"""The figures made from journals: functions from runs by group and arm to a sheet, drawn as wide as asked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepsup.reports import colours, curves, panels
from deepsup.reports.curves import FEW, THRESHOLD
from deepsup.reports.formats import magnitude
from deepsup.reports.panels import WIDE, Axes, Sheet
from deepsup.training.records import ACCURACY, Run

DASHES: Final[tuple[Any, ...]] = (":", "--", "-.", (0, (5, 1)), (0, (1, 1)))
_SHADE: Final = 0.16
_POWERS: Final = 60  # pixels that numbers like 1e-7 take beside an axis, with its name
_PROGRESS: Final = "share of training done"
_FRAME: Final = (-1.0, 3.0)
"""What is shown of `kept` at most: where a branch is a thousand times as strong, nothing else could be seen."""

Arms = Mapping[str, Sequence[Run]]
Baselines = Mapping[str, str | None]
Limits = tuple[float, float]


def gradients(
    arms: Arms, *, limits: Limits, threshold: float = THRESHOLD, along: str = "", width: int = WIDE
) -> Sheet | None:
    """Draw the mean |gradient| of each layer over the first iterations, an arm a panel, on one log axis.

    `limits` are the smallest and largest gradient the axis must hold, so that several figures can share it. `along` is
    the title of one more panel: the same means against the layer, the first arm the baseline. None without an arm.
    """
    if not arms:
        return None
    few = len(arms) < 3 and width >= WIDE  # else a title has no room for more than a name
    titles = [f"{arm}, mean of {n} seeds" if (n := len(runs)) > 1 and few else arm for arm, runs in arms.items()]
    layers = curves.layers(run for runs in arms.values() for run in runs)
    bottom = panels.under_layers(layers) if along else 46
    titles += [along] if along else []
    sheet = Sheet(
        titles, [300], width, left=_POWERS, right=104, bottom=bottom, caption=_caption({"": arms}, "gradients")
    )
    tones = dict(zip(layers, colours.depth_colours(len(layers)), strict=True))
    for panel, runs in zip(sheet.panels, arms.values(), strict=False):
        for layer, curve in curves.gradients(runs).items():
            panels.mean(panel, curve.positive(), colour=tones[layer], linewidth=1.6)
        panels.whole(panel)
    sheet.labels(x="iteration", y="mean |gradient|")
    if along:
        _along(sheet, sheet.panels[-1], arms, baseline=next(iter(arms)))
    _on_log_axis(sheet, limits, threshold)
    panels.layer_bar(sheet.laid_out(), tones)
    return sheet


def profile(groups: Mapping[str, Arms], *, baselines: Baselines, limits: Limits, width: int = WIDE) -> Sheet:
    """Draw the mean |gradient| over those iterations against the layer, arms over each other, one panel a group."""
    every = curves.layers(run for arms in groups.values() for runs in arms.values() for run in runs)
    sheet = Sheet(list(groups), [270], width, left=_POWERS, bottom=panels.under_layers(every))
    sheet.labels(x="", y="mean |gradient|")
    for panel, (group, arms) in zip(sheet.panels, groups.items(), strict=True):
        _along(sheet, panel, arms, baseline=baselines.get(group))
    _on_log_axis(sheet, limits, THRESHOLD)
    return sheet.laid_out()


def _along(sheet: Sheet, panel: Axes, arms: Arms, *, baseline: str | None) -> None:
    """Draw the profiles of arms, with a diamond after each layer that a branch follows."""
    layers = curves.layers(run for runs in arms.values() for run in runs)
    for arm, colour, dash in colours.of_arms(arms, baseline=baseline):
        curve = curves.profile(arms[arm]).positive().at(layers)
        look: dict[str, Any] = {"linestyle": dash, "marker": "o", "markersize": 4, "linewidth": 2.2}
        panels.mean(panel, curve, name=arm, colour=colour, shade=_shade(arms), **look)
        starts = set(map(layers.index, curves.branch_layers(arms[arm])))
        marks = [(x, y) for x, y in zip(curve.x, curve.mean, strict=True) if x in starts]
        if marks:
            name = f"{arm}: a branch starts here" if len(arms) <= FEW else ""
            look = {"linestyle": "", "marker": "D", "markersize": 8, "markerfacecolor": colours.PAPER, "zorder": 2.5}
            panels.line(panel, *zip(*marks, strict=True), name=name, colour=colour, markeredgewidth=1.8, **look)
    panels.by_layer(panel, layers, room=sheet.inner)
    panel.set_xlabel("layer, from the input to the output")


def _on_log_axis(sheet: Sheet, limits: Limits, threshold: float) -> None:
    """Make the axis that all panels share logarithmic, with the threshold on it, which the last panel names."""
    panels.logarithmic(sheet.panels[0], limits)
    for panel in sheet.panels:
        whose = "CNDS paper's threshold" if threshold == THRESHOLD else "threshold"
        panels.level(panel, threshold, text=f"{magnitude(threshold)}, the {whose}" if panel is sheet.panels[-1] else "")


def score(groups: Mapping[str, Arms], *, baselines: Baselines, metric: str = ACCURACY, width: int = WIDE) -> Sheet:
    """Draw the score over epochs: the main output of each arm thick with its range, its branches thin.

    Of more than a few arms only the main outputs are drawn.
    """
    sheet = Sheet(list(groups), [300], width, caption=_caption(groups, "epochs"))
    for panel, (group, arms) in zip(sheet.panels, groups.items(), strict=True):
        for arm, colour, dash in colours.of_arms(arms, baseline=baselines.get(group)):
            heads = curves.scores(arms[arm])
            main, few = heads.pop("main", None), len(arms) <= FEW
            for i, (head, curve) in enumerate(heads.items() if few else ()):
                style, pale = DASHES[i % len(DASHES)], colours.tint(colour, 0.25)
                panels.mean(panel, curve, name=f"{arm}: {head}", colour=pale, linewidth=1.3, linestyle=style)
            if main:
                look = {"linewidth": 2.6, "zorder": 3} if few else {"linewidth": 2, "linestyle": dash}
                name = f"{arm}: main output" if few else arm
                panels.mean(panel, main, name=name, colour=colour, shade=_shade(arms), **look)
        low, high = panel.get_ylim()
        if metric == ACCURACY and low < 0.9 < high:
            panels.level(panel, 0.9, text="90 %", left=True)
        panels.whole(panel)
    panels.shares(sheet.panels[0].yaxis, metric)
    sheet.labels(x="epoch", y=f"{metric} on validation data")
    return sheet.laid_out()


def weights(groups: Mapping[str, Arms], *, baselines: Baselines, width: int = WIDE) -> Sheet | None:
    """Draw the weight of each loss over progress, one panel a group; None when no arm has a branch.

    Of more than a few arms the main outputs, whose weight is 1, are left out.
    """
    groups = {group: arms for group, arms in groups.items() if any(map(_has_branches, arms.values()))}
    if not groups:
        return None
    sheet = Sheet(list(groups), [200], width, caption=_caption(groups, "steps"))
    for panel, (group, arms) in zip(sheet.panels, groups.items(), strict=True):
        for arm, colour, _ in colours.of_arms(arms, baseline=baselines.get(group)):
            dashes = itertools.cycle(("-", *DASHES))
            for heads, curve in curves.weights(arms[arm]).items() if _has_branches(arms[arm]) else ():
                if heads != "main":
                    panels.mean(
                        panel, curve, name=f"{arm}: {heads}", colour=colour, linestyle=next(dashes), linewidth=2.2
                    )
                elif len(arms) <= FEW:
                    panels.mean(panel, curve, name=f"{arm}: main output", colour=colours.BASELINE, zorder=3)
        _over_progress(panel)
        panel.set_ylim(bottom=0)
    sheet.labels(x=_PROGRESS, y="weight of the loss")
    return sheet.laid_out()


def conflict(arms: Arms, *, titled: bool = True, width: int = WIDE) -> Sheet:
    """Draw, for each branch over progress, its cosine with what comes from above, its relative strength, and `kept`.

    One column an arm; two arms are as many as there is room for.
    """
    quantities = {"cosine": "agreement (cosine)", "ratio": "relative strength", "kept": "kept"}
    sheet = Sheet(list(arms) if titled else [""], [180, 130, 110], width, caption=_caption({"": arms}, "conflicts"))
    pulls = [(quantity, curves.conflicts(runs, quantity)) for runs in arms.values() for quantity in quantities]
    branches = list(dict.fromkeys(branch for _, by in pulls for branch in by))
    tones = dict(zip(branches, colours.depth_colours(len(branches) + 1), strict=False))  # the palest is hard to see
    drawn: dict[str, list[float]] = {quantity: [] for quantity in quantities}
    for panel, (quantity, by) in zip(sheet.panels, pulls, strict=True):
        for branch, curve in by.items():
            shown = curve.positive() if quantity == "ratio" else curve
            drawn[quantity] += [*shown.low, *shown.high]
            panels.mean(panel, shown, name=branch, colour=tones[branch], shade=_SHADE, linewidth=1.8)
        panel.axhline(0 if quantity == "cosine" else 1, color=colours.MUTED, linewidth=1.2)
        _over_progress(panel)
    _pull_axes(sheet, **drawn)
    sheet.labels(x=_PROGRESS, y=list(quantities.values()))
    return sheet.laid_out()


def _pull_axes(sheet: Sheet, *, cosine: Sequence[float], ratio: Sequence[float], kept: Sequence[float]) -> None:
    """Set the axes of the conflict timelines so that each holds the line that values are read against."""
    bottom = max(-1.05, min([-0.15, *cosine]) - 0.08)
    sheet.panels[0].set_ylim(bottom, min(1.05, max([0.15, *cosine]) + 0.08))
    for panel in sheet.panels[::3]:
        panel.axhspan(bottom, 0, color=colours.MARK, alpha=0.1, linewidth=0)
    panels.logarithmic(sheet.panels[1], (min([1, *ratio]), max([1, *ratio])), most=4)
    low, high = min([0.9, *kept]) - 0.05, max([1.1, *kept]) + 0.05
    sheet.panels[2].set_ylim(max(_FRAME[0], low), min(_FRAME[1], high))


def limits(groups: Mapping[str, Arms]) -> Limits:
    """Return the range that holds every gradient of every group, and the threshold."""
    found = [THRESHOLD]
    for arms in groups.values():
        for runs in arms.values():
            for curve in (*curves.gradients(runs).values(), curves.profile(runs)):
                found += [value for value in (*curve.mean, *curve.low, *curve.high) if value > 0]
    return min(found), max(found)


def _over_progress(panel: Axes) -> None:
    panels.shares(panel.xaxis)
    panel.set_xlim(0, 1)


def _shade(arms: Arms) -> float:
    return _SHADE if len(arms) <= FEW else 0.07


def _caption(groups: Mapping[str, Arms], kind: str) -> str:
    """Say that not every record is drawn, where that is so."""
    every = max(curves.stride(runs, kind) for arms in groups.values() for runs in arms.values())
    return f"Of long runs not all records are drawn: of the longest one in {every}, and the last." if every > 1 else ""


def _has_branches(runs: Sequence[Run]) -> bool:
    return any(len(step.weights) > 1 for run in runs for step in run.steps)
