"""The figures of the page made from journals: functions from runs by group and arm to a plotly figure as a plain dict."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from deepsup.reports import colours, curves, panels
from deepsup.reports.curves import THRESHOLD, Curve
from deepsup.reports.formats import magnitude, short
from deepsup.reports.panels import DASHES, Figure, plain
from deepsup.training.records import ACCURACY, Run

_CAPTIONS = (
    "<b>Agreement</b> (cosine); shaded: against the rest",
    "<b>Relative strength</b>; 1: as strong as the rest",
    "<b>Kept</b>; 1: nothing is taken from the rest",
)

_FRAME = (-1.0, 3.0)
"""What is shown of `kept` at most: where a branch is a thousand times as strong, nothing else could be seen."""

Arms = Mapping[str, Sequence[Run]]
Baselines = Mapping[str, str | None]


def gradients(arms: Arms, *, limits: tuple[float, float]) -> Figure:
    """Draw the mean |gradient| of each layer over the first iterations, the arms side by side on one log axis.

    `limits` are the smallest and largest gradient the axis must hold, so that several figures can share it.
    """
    arms = {arm: runs for arm, runs in arms.items() if curves.first_iterations(runs)}
    titles = [short(arm, 26) if len(arms) > 2 else _title(arm, runs) for arm, runs in arms.items()]
    figure = panels.beside(titles, height=430, right=150)
    layers = curves.layers(run for runs in arms.values() for run in runs)
    tones = dict(zip(layers, colours.depth_colours(len(layers)), strict=True))
    for i, runs in enumerate(arms.values()):
        for layer, curve in curves.gradients(runs).items():
            figure["data"].append(
                panels.line(curve.positive(), name=layer, colour=tones[layer], width=1.8, panel=i, value=".1e")
            )
        panels.axis(figure, "x", i)["title"] = {"text": "iteration", "standoff": 8}
        panels.logarithmic(figure, i, limits)
        _threshold(figure, panel=i, label=i == len(arms) - 1)
    panels.axis(figure, "y", 0)["title"] = {"text": "mean |gradient|"}
    panels.depth_bar(figure, layers, list(tones.values()))
    return figure


def profile(groups: Mapping[str, Arms], *, baselines: Baselines, limits: tuple[float, float]) -> Figure:
    """Draw the mean |gradient| over those iterations against the layer, arms over each other, one panel a group."""
    figure = panels.beside(list(groups), height=400)
    for i, (group, arms) in enumerate(groups.items()):
        tones = colours.arm_colours(list(arms), baseline=baselines.get(group))
        dashes = colours.arm_dashes(list(arms), baseline=baselines.get(group))
        for arm, runs in arms.items():
            curve, colour = curves.profile(runs).positive(), tones[arm]
            line = panels.line(curve, name=arm, colour=colour, width=2.4, panel=i, value=".1e", dash=dashes[arm])
            dots = {"mode": "lines+markers", "marker": {"size": 6, "color": colour}}
            shade = panels.band(curve, colour=colour, panel=i, faint=len(arms) > curves.FEW)
            figure["data"] += [*shade, line | dots]
            marks = _branch_marks(curve, arm, runs, colour=colour, panel=i)
            figure["data"] += [mark | {"showlegend": len(arms) <= curves.FEW} for mark in marks]
        panels.by_layer(figure, i, curves.layers(run for runs in arms.values() for run in runs))
        panels.logarithmic(figure, i, limits)
        _threshold(figure, panel=i, label=i == len(groups) - 1)
    panels.axis(figure, "y", 0)["title"] = {"text": "mean |gradient|"}
    return panels.with_legend(figure)


def score(groups: Mapping[str, Arms], *, baselines: Baselines, metric: str = ACCURACY) -> Figure:
    """Draw the score over epochs: the main output of each arm thick with its range, its branches thin.

    Of more than a few arms only the main outputs are drawn.
    """
    figure = panels.beside(list(groups), height=430)
    for i, (group, arms) in enumerate(groups.items()):
        tones = colours.arm_colours(list(arms), baseline=baselines.get(group))
        dashes = colours.arm_dashes(list(arms), baseline=baselines.get(group)) if len(arms) > curves.FEW else {}
        for arm, runs in arms.items():
            figure["data"] += _heads(arm, runs, colour=tones[arm], panel=i, alone=dashes.get(arm))
        panels.axis(figure, "x", i)["title"] = {"text": "epoch", "standoff": 8}
    drawn = [y for trace in figure["data"] for y in trace["y"]]
    low, _ = panels.shares(figure, drawn, fine=metric != ACCURACY)
    for i in range(len(groups) if low < 0.9 and metric == ACCURACY else 0):
        panels.level(figure, 0.9, panel=i, text="90 %", left=True)
    panels.axis(figure, "y", 0)["title"] = {"text": plain(f"{metric} on validation data")}
    return panels.with_legend(figure)


def weights(groups: Mapping[str, Arms], *, baselines: Baselines) -> Figure | None:
    """Draw the weight of each loss over progress, one panel a group; None when no arm has a branch.

    Of more than a few arms the main outputs, whose weight is 1, are left out.
    """
    groups = {group: arms for group, arms in groups.items() if any(map(_has_branches, arms.values()))}
    if not groups:
        return None
    figure = panels.beside(list(groups), height=330)
    for i, (group, arms) in enumerate(groups.items()):
        tones = colours.arm_colours(list(arms), baseline=baselines.get(group))
        for arm, runs in arms.items():
            drawn = _schedules(arm, runs, colour=tones[arm], panel=i) if _has_branches(runs) else {}
            figure["data"] += [line for heads, line in drawn.items() if heads != "main" or len(arms) <= curves.FEW]
        title = {"text": "share of training done", "standoff": 8}
        panels.axis(figure, "x", i).update(title=title, tickformat=".0%", range=[0, 1])
        panels.axis(figure, "y", i)["rangemode"] = "tozero"
    panels.axis(figure, "y", 0)["title"] = {"text": "weight of the loss"}
    return panels.with_legend(figure)


def conflict(arms: Arms, *, titled: bool = True) -> Figure:
    """Draw, for each branch over progress, its cosine with what comes from above, its relative strength, and `kept`.

    One column an arm; two arms are as many as there is room for.
    """
    titles = list(arms) if titled else [""]
    figure = panels.grid(titles, rows=[190, 130, 130], captions=_CAPTIONS)
    pulls = {arm: curves.conflicts(runs) for arm, runs in arms.items()}
    branches = list(dict.fromkeys(branch for by in pulls.values() for branch in by))
    tones = dict(zip(branches, colours.depth_colours(len(branches) + 1), strict=False))  # the palest is hard to see
    found = [by for arm in pulls.values() for by in arm.values()]
    for i, arm in enumerate(pulls.values()):
        for row, quantity in enumerate(("cosine", "ratio", "kept")):
            for branch, by in arm.items():
                figure["data"] += _pull(by[quantity], branch, quantity, colour=tones[branch], panel=3 * i + row)
        _pull_axes(figure, 3 * i, [[by[quantity] for by in found] for quantity in ("cosine", "ratio", "kept")])
    return panels.with_legend(figure)


def _pull(curve: Curve, branch: str, quantity: str, *, colour: str, panel: int) -> list[Figure]:
    curve = curve.positive() if quantity == "ratio" else curve
    line = panels.line(curve, name=branch, colour=colour, width=2, panel=panel, value=".2r")
    return [*panels.band(curve, colour=colour, panel=panel), line]


def _pull_axes(figure: Figure, panel: int, drawn: Sequence[Sequence[Curve]]) -> None:
    """Set the axes of one column of the conflict timeline, with the line in each panel that values are read against."""
    cosine, ratio, kept = ([v for curve in row for v in (*curve.low, *curve.high)] for row in drawn)
    span = [max(-1.05, min([-0.15, *cosine]) - 0.08), min(1.05, max([0.15, *cosine]) + 0.08)]
    panels.axis(figure, "y", panel)["range"] = span
    panels.below(figure, 0, panel=panel)
    positive = [1, *(value for value in ratio if value > 0)]
    panels.logarithmic(figure, panel + 1, (min(positive), max(positive)), ticks=4)
    panels.level(figure, 1, panel=panel + 1)
    low, high = max(_FRAME[0], min([0.9, *kept]) - 0.05), min(_FRAME[1], max([1.1, *kept]) + 0.05)
    panels.axis(figure, "y", panel + 2)["range"] = [low, high]
    panels.level(figure, 1, panel=panel + 2)
    for row in range(3):
        panels.axis(figure, "x", panel + row).update(tickformat=".0%", range=[0, 1])
    panels.axis(figure, "x", panel + 2)["title"] = {"text": "share of training done", "standoff": 8}


def limits(groups: Mapping[str, Arms]) -> tuple[float, float]:
    """Return the range that holds every gradient of every group, and the threshold."""
    found = [THRESHOLD]
    for arms in groups.values():
        for runs in arms.values():
            for curve in (*curves.gradients(runs).values(), curves.profile(runs)):
                found += [value for value in (*curve.mean, *curve.low, *curve.high) if value > 0]
    return min(found), max(found)


def _heads(arm: str, runs: Sequence[Run], *, colour: str, panel: int, alone: str | None) -> list[Figure]:
    """Return the lines of one arm: the main output over its branches and named before them, or it `alone`, so dashed."""
    heads = curves.scores(runs)
    main = heads.pop("main", None)
    pale = colours.tint(colour, 0.25)
    traces = []
    for i, (head, curve) in enumerate({} if alone else heads.items()):
        dash = DASHES[i % len(DASHES)]
        line = panels.line(curve, name=f"{arm}: {head}", colour=pale, width=1.4, panel=panel, value=".1%", dash=dash)
        traces.append(line | {"legendrank": 1001})
    if main:
        name, width = (arm, 2.2) if alone else (f"{arm}: main output", 3)
        dash = alone or "solid"
        line = panels.line(main, name=name, colour=colour, width=width, panel=panel, value=".1%", dash=dash)
        traces = [*panels.band(main, colour=colour, panel=panel, faint=alone is not None), *traces, line]
    return traces


def _schedules(arm: str, runs: Sequence[Run], *, colour: str, panel: int) -> dict[str, Figure]:
    """Return the line of each schedule by the losses that have it."""
    dashes = itertools.cycle(("solid", *DASHES))
    traces = {}
    for heads, curve in curves.weights(runs).items():
        main = heads == "main"
        name, tone = (f"{arm}: main output", colours.BASELINE) if main else (f"{arm}: {heads}", colour)
        width, dash = (1.6, "solid") if main else (2.4, next(dashes))
        traces[heads] = panels.line(curve, name=name, colour=tone, width=width, panel=panel, value=".3f", dash=dash)
    return traces


def _branch_marks(curve: Curve, arm: str, runs: Sequence[Run], *, colour: str, panel: int) -> list[Figure]:
    """Return the diamonds that show after which layers the branches start."""
    start = set(curves.branch_layers(runs))
    height = {x: [y] for x, y in zip(curve.x, curve.mean, strict=True) if x in start}
    if not height:
        return []
    at = Curve.of(height)
    trace = panels.line(at, name=f"{arm}: a branch starts here", colour=colour, width=0, panel=panel, value=".1e")
    marker = {"symbol": "diamond", "size": 12, "color": colours.PAPER, "line": {"color": colour, "width": 2}}
    return [trace | {"mode": "markers", "marker": marker}]


def _threshold(figure: Figure, *, panel: int, label: bool) -> None:
    text = f"{magnitude(THRESHOLD)}, the CNDS paper's threshold" if label else ""
    panels.level(figure, THRESHOLD, panel=panel, text=text, log=True)


def _has_branches(runs: Sequence[Run]) -> bool:
    return any(len(step.weights) > 1 for run in runs for step in run.steps)


def _title(arm: str, runs: Sequence[Run]) -> str:
    n = sum(bool(run.gradients) for run in runs)
    return f"{arm} (mean of {n} seeds)" if n > 1 else arm
