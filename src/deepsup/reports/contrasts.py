"""The figures of the page made from compare.json: how much each arm differs, and how good its outputs are by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepsup.reports import colours, curves, depths, panels
from deepsup.reports.formats import known, short
from deepsup.reports.panels import Figure, plain
from deepsup.reports.summary import baseline, judged
from deepsup.training.records import ACCURACY

_TONES: Final = {"helps": colours.HELPS, "hurts": colours.HURTS}
_TOGETHER: Final = 1.15
"""Where on the axis of depth all outputs together stand: behind the last."""


def differences(groups: Sequence[Mapping[str, Any]], *, metric: str = ACCURACY) -> Figure | None:
    """Draw the mean difference of each arm from the baseline and its interval, an arm a line, one panel a group.

    None where no group has several arms with a difference: one is said in a sentence.
    """
    found = {str(g["name"]): {a: v for a, v in judged(g).items() if known(v.get("mean_difference"))} for g in groups}
    most = max(map(len, found.values()), default=0)
    if most < 2:
        return None
    figure = panels.beside(list(found), height=130 + 30 * most, right=20)
    arms = list(dict.fromkeys(arm for verdicts in found.values() for arm in verdicts))
    reference = next(filter(None, (baseline(group) for group in groups)), "the baseline")
    for i, verdicts in enumerate(found.values()):
        figure["data"] += [_whisker(arm, verdict, panel=i) for arm, verdict in verdicts.items()]
        figure["layout"]["shapes"].append(
            {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "line": {"color": colours.INK, "width": 1.2}}
            | {"xref": panels.on(i)["xaxis"], "yref": f"{panels.on(i)['yaxis']} domain"}
        )
        title = {"text": f"points of {plain(metric)}, minus {plain(reference)}", "standoff": 8}
        panels.axis(figure, "x", i).update(title=title, zeroline=False)
        named = {"tickvals": arms, "ticktext": [plain(short(arm, 24)) for arm in arms]}
        order = {"type": "category", "categoryorder": "array", "categoryarray": arms, "range": [len(arms) - 0.4, -0.6]}
        panels.axis(figure, "y", i).update(order | named)
    return figure


def _whisker(arm: str, verdict: Mapping[str, Any], *, panel: int) -> Figure:
    mean, low, high = (verdict.get(key) for key in ("mean_difference", "ci_low", "ci_high"))
    assert mean is not None
    tone = _TONES.get(str(verdict.get("verdict")), colours.MUTED)
    ends = [high - mean] if known(high) else [0], [mean - low] if known(low) else [0]
    error = {"type": "data", "symmetric": False, "array": [100 * e for e in ends[0]]}
    error |= {"arrayminus": [100 * e for e in ends[1]], "color": tone, "thickness": 2, "width": 5}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(arm),
        "x": [100 * mean],
        "y": [arm],
        "error_x": error,
        "marker": {"size": 9, "color": tone},
        "showlegend": False,
        "hovertemplate": f"{plain(arm)}: %{{x:+.2f}} points, {plain(str(verdict.get('verdict')))}<extra></extra>",
    } | panels.on(panel)


def by_depth(groups: Sequence[Mapping[str, Any]], *, metric: str = ACCURACY) -> Figure | None:
    """Draw the score of every output against its depth, arms over each other, one panel a group.

    A line goes through the branches to the main output, the star behind it is the mean of all outputs. An arm without
    branches is a dot, and the baseline a level to read the others against. None where no arm has a branch.
    """
    branched = [group for group in groups if any(map(depths.branches, group["arms"].values()))]
    if not branched:
        return None
    figure = panels.beside([str(group["name"]) for group in branched], height=430)
    for i, group in enumerate(branched):
        reference = baseline(group)
        tones = colours.arm_colours(list(group["arms"]), baseline=reference)
        dashes = colours.arm_dashes(list(group["arms"]), baseline=reference)
        for arm, fields in group["arms"].items():
            figure["data"] += _outputs(str(arm), fields, colour=tones[arm], dash=dashes[arm], panel=i)
        ticks = {
            "tickvals": [0, 0.25, 0.5, 0.75, 1, _TOGETHER],
            "ticktext": ["0 %", "25 %", "50 %", "75 %", "main", "all"],
        }
        title = {"text": "depth of the output in the network", "standoff": 8}
        panels.axis(figure, "x", i).update(ticks | {"title": title, "range": [-0.02, _TOGETHER + 0.05], "tickangle": 0})
    panels.shares(figure, [y for trace in figure["data"] for y in trace["y"]], fine=metric != ACCURACY)
    for i, group in enumerate(branched):
        mean = group["arms"].get(baseline(group), {}).get("mean")
        if known(mean):
            panels.level(figure, mean, panel=i, text=plain(f"{baseline(group)}, main output"), left=True)
    panels.axis(figure, "y", 0)["title"] = {"text": plain(f"{metric} after the last epoch")}
    return panels.with_legend(figure)


def _outputs(arm: str, fields: Mapping[str, Any], *, colour: str, dash: str, panel: int) -> list[Figure]:
    along = [output for output in depths.of(fields) if output.depth is not None]
    together = depths.ensemble(fields)
    traces = []
    if along:
        line = panels.line(_curve(along), name=arm, colour=colour, width=2.2, panel=panel, value=".1%", dash=dash)
        named = {
            "text": [plain(o.name) for o in along],
            "hovertemplate": "%{fullData.name}, %{text}: %{y:.1%}<extra></extra>",
        }
        traces.append(line | named | {"mode": "lines+markers", "marker": {"size": 8, "color": colour}})
    if together:
        at = {"x": [_TOGETHER], "y": [together.mean], "mode": "markers"}
        look = {"marker": {"symbol": "star", "size": 12, "color": colour}, "showlegend": False}
        star = panels.line(_curve([together]), name=arm, colour=colour, width=0, panel=panel, value=".1%")
        traces.append(star | at | look | {"hovertemplate": "%{fullData.name}, all outputs: %{y:.1%}<extra></extra>"})
    return traces


def _curve(outputs: Sequence[depths.Output]) -> curves.Curve:
    return curves.Curve(
        x=tuple(o.depth for o in outputs),
        mean=tuple(o.mean for o in outputs),
        low=tuple(o.low for o in outputs),
        high=tuple(o.high for o in outputs),
    )
