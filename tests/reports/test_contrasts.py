"""Reports of many arms: verdicts of old and new files, what each output scored, and figures that stay readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepsup.reports import colours, contrasts, depths
from deepsup.reports.summary import judged
from tests.support.drawn_figures import colour, legend, levels, lines, points, said
from tests.support.shown_reports import group_of
from tests.support.synthetic_journals import NINE


def test_differences_are_drawn_with_their_intervals_in_the_colour_of_the_verdict(many: Path) -> None:
    group = group_of(many)
    sheet = contrasts.differences([group])
    assert sheet is not None
    (panel,) = sheet.panels
    assert [label.get_text() for label in panel.get_yticklabels()] == NINE[1:]
    tones = {"helps": colours.HELPS, "hurts": colours.HURTS, "no evidence": colours.MUTED}
    for i, (bars, verdict) in enumerate(zip(panel.containers, judged(group).values(), strict=True)):
        mean, low, high = (100 * verdict[key] for key in ("mean_difference", "ci_low", "ci_high"))
        dot, _, (whisker,) = bars.lines
        assert points(dot) == [(pytest.approx(mean), i)]
        assert whisker.get_segments()[0].tolist() == [[pytest.approx(low), i], [pytest.approx(high), i]]
        assert colour(dot) == tones[verdict["verdict"]]
    assert panel.get_xlabel() == "points of accuracy, minus none"
    bottom, top = panel.get_ylim()
    assert bottom > len(NINE) - 2  # the first arm stands on top
    assert top < 0
    alone = group | {"verdicts": {"aux": judged(group)["aux"]}}
    assert contrasts.differences([alone]) is None  # a sentence says it
    one = {"verdict": "no evidence", "mean_difference": 0.1, "ci_low": None, "ci_high": None, "baseline": "none"}
    dots = contrasts.differences([group | {"verdicts": {"aux": one, "dsn": one}}])
    assert dots is not None
    _, _, (whisker,) = dots.panels[0].containers[0].lines
    assert whisker.get_segments()[0].tolist() == [[10, 0], [10, 0]]


def test_accuracy_is_drawn_by_depth_with_the_baseline_as_a_level(demo: Path) -> None:
    groups = [group_of(demo, i) for i in (0, 1)]
    sheet = contrasts.by_depth(groups)
    assert sheet is not None
    for panel, group in zip(sheet.panels, groups, strict=True):
        outputs = [o for o in depths.of(group["arms"]["supervised"]) if o.depth is not None]
        assert points(lines(panel)["supervised"]) == [(o.depth, o.mean) for o in outputs]
        assert [x for x, _ in points(lines(panel)["plain"])] == [1.0]
        assert levels(panel) == [group["arms"]["plain"]["mean"]]
        assert said(panel) == ["plain, main output"]
        (star,) = [line for line in panel.lines if line.get_marker() == "*"]
        together = depths.ensemble(group["arms"]["supervised"])
        assert together is not None
        assert points(star) == [(pytest.approx(1.15), together.mean)]
    assert legend(sheet) == ["plain", "supervised"]
    assert contrasts.by_depth([{"name": "g", "arms": {"plain": groups[0]["arms"]["plain"]}}]) is None
