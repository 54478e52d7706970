"""Reports of many arms: verdicts of old and new files, what each output scored, and figures that stay readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepsup.reports import contrasts, depths, panels
from deepsup.reports.summary import judged
from tests.support.shown_reports import group_of
from tests.support.synthetic_journals import BRANCHES, NINE


def test_differences_are_drawn_with_their_intervals_in_the_colour_of_the_verdict(many: Path) -> None:
    group = group_of(many)
    figure = contrasts.differences([group])
    assert figure is not None
    assert [trace["y"] for trace in figure["data"]] == [[arm] for arm in NINE[1:]]
    tones = {"helps": "#00694b", "hurts": "#b24400", "no evidence": panels.MUTED}
    for trace, verdict in zip(figure["data"], judged(group).values(), strict=True):
        mean, low, high = (100 * verdict[key] for key in ("mean_difference", "ci_low", "ci_high"))
        assert trace["x"] == [pytest.approx(mean)]
        assert trace["error_x"]["array"] == [pytest.approx(high - mean)]
        assert trace["error_x"]["arrayminus"] == [pytest.approx(mean - low)]
        assert trace["marker"]["color"] == trace["error_x"]["color"] == tones[verdict["verdict"]]
    assert figure["layout"]["xaxis"]["title"]["text"] == "points of accuracy, minus none"
    top, bottom = figure["layout"]["yaxis"]["range"]
    assert top > len(NINE) - 2
    assert bottom < 0
    assert (
        contrasts.differences([group_of(many) | {"verdicts": {"aux": judged(group)["aux"]}}]) is None
    )  # a sentence says it
    one = {"verdict": "no evidence", "mean_difference": 0.1, "ci_low": None, "ci_high": None, "baseline": "none"}
    dots = contrasts.differences([group | {"verdicts": {"aux": one, "dsn": one}}])
    assert dots is not None
    assert dots["data"][0]["error_x"]["array"] == dots["data"][0]["error_x"]["arrayminus"] == [0]


def test_accuracy_is_drawn_by_depth_with_the_baseline_as_a_level(demo: Path) -> None:
    groups = [group_of(demo, i) for i in (0, 1)]
    figure = contrasts.by_depth(groups)
    assert figure is not None
    for i, group in enumerate(groups):
        drawn = {
            t["name"]: t for t in figure["data"] if t["xaxis"] == f"x{i + 1 if i else ''}" and t["mode"] != "markers"
        }
        outputs = [o for o in depths.of(group["arms"]["supervised"]) if o.depth is not None]
        assert drawn["supervised"]["x"] == [o.depth for o in outputs]
        assert drawn["supervised"]["y"] == [o.mean for o in outputs]
        assert drawn["supervised"]["text"] == [*BRANCHES, "main"]
        assert drawn["plain"]["x"] == [1.0]
        (level,) = (s for s in figure["layout"]["shapes"] if s["yref"] == f"y{i + 1 if i else ''}")
        assert level["y0"] == group["arms"]["plain"]["mean"]
    stars = [t for t in figure["data"] if t["mode"] == "markers"]
    together = [depths.ensemble(group["arms"]["supervised"]) for group in groups]
    assert [star["y"] for star in stars] == [[o.mean] for o in together if o]
    assert all(star["x"][0] > 1 for star in stars)
    assert contrasts.by_depth([{"name": "g", "arms": {"plain": groups[0]["arms"]["plain"]}}]) is None
