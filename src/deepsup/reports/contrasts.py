"""The figures made from compare.json: how much each arm differs, and how good its outputs are by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepsup.reports import colours, depths, panels
from deepsup.reports.formats import known, short
from deepsup.reports.metrics import measured_in, unit
from deepsup.reports.panels import NARROW, WIDE, Sheet
from deepsup.reports.summary import baseline, judged
from deepsup.training.records import ACCURACY

_TONES: Final = {"helps": colours.HELPS, "hurts": colours.HURTS}
_TOGETHER: Final = 1.15
"""Where on the axis of depth all outputs together stand: behind the last."""

Groups = Sequence[Mapping[str, Any]]


def differences(groups: Groups, *, metric: str = ACCURACY, width: int = WIDE) -> Sheet | None:
    """Draw the mean difference of each arm from the baseline and its interval, an arm a line, one panel a group.

    None where no group has several arms with a difference: one is said in a sentence.
    """
    found = {str(g["name"]): {a: v for a, v in judged(g).items() if known(v.get("mean_difference"))} for g in groups}
    arms = list(dict.fromkeys(arm for verdicts in found.values() for arm in verdicts))
    if max(map(len, found.values()), default=0) < 2:
        return None
    scale = 100 if unit(metric) else 1
    names = [short(arm, 16 if width == NARROW else 24) for arm in arms]
    sheet = Sheet(list(found), [24 * len(arms) + 16], width, left=panels.wide(names) + 12)
    for panel, verdicts in zip(sheet.panels, found.values(), strict=True):
        for arm, verdict in verdicts.items():
            stated: Sequence[Any] = [verdict.get(key) for key in ("mean_difference", "ci_low", "ci_high")]
            mean, low, high = stated
            whisker = [[scale * abs(end - mean) if known(end) else 0] for end in (low, high)]
            look = {"color": _TONES.get(str(verdict.get("verdict")), colours.MUTED), "capsize": 3, "elinewidth": 2}
            panel.errorbar(scale * mean, arms.index(arm), xerr=whisker, fmt="o", **look)
        panel.axvline(0, color=colours.INK, linewidth=1.2)
        panel.set_yticks(range(len(arms)), names)
        panel.set_ylim(len(arms) - 0.4, -0.6)
    reference = next(filter(None, map(baseline, groups)), "the baseline")
    sheet.labels(x=f"{measured_in(metric).removeprefix('of ')}, minus {reference}", y="")
    return sheet.laid_out()


def by_depth(groups: Groups, *, metric: str = ACCURACY, width: int = WIDE) -> Sheet | None:
    """Draw the score of every output against its depth, arms over each other, one panel a group.

    A line goes through the branches to the main output, the star behind it is the mean of all outputs. An arm without
    branches is a dot, and the baseline a level to read the others against. None where no arm has a branch.
    """
    branched = [group for group in groups if any(map(depths.branches, group["arms"].values()))]
    if not branched:
        return None
    sheet = Sheet([str(group["name"]) for group in branched], [300], width)
    for panel, group in zip(sheet.panels, branched, strict=True):
        reference = baseline(group)
        for arm, colour, dash in colours.of_arms(group["arms"], baseline=reference):
            along = [output for output in depths.of(group["arms"][arm]) if output.depth is not None]
            look: dict[str, Any] = {"colour": colour, "linestyle": dash, "marker": "o", "linewidth": 2}
            panels.line(panel, [o.depth for o in along], [o.mean for o in along], name=arm, **look)
            together = depths.ensemble(group["arms"][arm])
            if together:
                panel.plot([_TOGETHER], [together.mean], "*", color=colour, markersize=11)
        panel.set_xticks([0, 0.25, 0.5, 0.75, 1, _TOGETHER], ["0 %", "25 %", "50 %", "75 %", "main", "all"])
        panel.set_xlim(-0.02, _TOGETHER + 0.05)
        mean = group["arms"].get(reference, {}).get("mean")
        if known(mean):
            panels.level(panel, mean, text=f"{reference}, main output", left=True)
    panels.shares(sheet.panels[0].yaxis, metric)
    sheet.labels(x="depth of the output in the network", y=f"{metric} after the last epoch")
    return sheet.laid_out()
