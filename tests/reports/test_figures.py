"""The figures from journals hold what they draw, of few arms and of many."""

from __future__ import annotations

import math
from pathlib import Path

from deepsup import reports
from deepsup.reports import colours, figures
from deepsup.training import run_folders
from tests.support.synthetic_journals import BRANCHES, LAYERS, NINE, conflicts, write


def test_figures_hold_many_layers_arms_and_groups(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]
    arms = {"plain": members["plain"], "a": members["supervised"], "b": members["supervised"]}
    groups = dict.fromkeys(("one", "two", "three"), arms)
    span = figures.limits(groups)
    assert len(figures.gradients(arms, limits=span)["data"]) == 3 * len(LAYERS) + 1
    names = [t["name"] for t in figures.score(groups, baselines={})["data"] if t.get("showlegend")]
    assert len(names) == len(set(names)) == 3 + 2 * (len(BRANCHES) + 1)


def test_the_conflict_timeline_holds_what_it_draws(demo: Path) -> None:
    arms = {"supervised": reports.evidence(demo).groups["sgd"]["supervised"]}
    figure = figures.conflict(arms)
    lines = [t for t in figure["data"] if t.get("name") in BRANCHES]
    assert [t["name"] for t in lines] == [*BRANCHES] * 3
    layout = figure["layout"]
    for panel, log in (("", False), ("2", True), ("3", False)):
        low, high = layout[f"yaxis{panel}"]["range"]
        drawn = [y for t in figure["data"] if t["yaxis"] == f"y{panel}" for y in t["y"]]
        drawn = [math.log10(y) for y in drawn] if log else drawn
        assert low < min(drawn) < max(drawn) < high
        assert low < (0 if log or not panel else 1) < high  # the line that values are read against
    ended = next(t for t in lines if t["name"] == "conv9")
    assert max(ended["x"]) < 0.81  # after that it was never measured


def test_a_branch_far_stronger_than_the_rest_leaves_the_others_readable(tmp_path: Path) -> None:
    write(
        tmp_path,
        conflicts((10, 0.2, {"conv3": (0.5, 1e3, 501.0, 0.0)}), (10, 0.4, {"conv3": (-0.5, 1e3, -499.0, 1.0)})),
    )
    layout = figures.conflict({"": [run_folders.run(tmp_path)]})["layout"]
    assert layout["yaxis3"]["range"] == [-1, 3]
    assert layout["yaxis2"]["dtick"] == 1


def test_of_many_arms_only_the_main_outputs_are_drawn_over_epochs(many: Path, demo: Path) -> None:
    groups = reports.evidence(many).groups
    figure = figures.score(groups, baselines={"all": "none"})
    assert [t["name"] for t in figure["data"] if t.get("showlegend")] == NINE
    lines = {t["name"]: t["line"]["color"] for t in figure["data"] if t.get("showlegend")}
    assert len(set(lines.values())) == len(NINE)
    assert [t["line"]["dash"] for t in figure["data"] if t.get("showlegend")] == ["solid"] * 7 + ["dash"] * 2
    few = figures.score(reports.evidence(demo).groups, baselines={})
    assert "supervised: conv3" in {t.get("name") for t in few["data"]}
    assert len(set(colours.arm_colours([str(i) for i in range(12)], baseline="0").values())) == 12


def test_of_many_arms_the_weights_of_main_outputs_and_the_marks_of_branches_name_nothing(many: Path) -> None:
    groups = reports.evidence(many).groups
    weights = figures.weights(groups, baselines={})
    assert weights is not None
    names = [t["name"] for t in weights["data"] if t.get("showlegend")]
    assert names == [
        f"{arm}: conv3, conv6 and conv9" for arm in NINE if arm not in ("none", "label-smoothing", "compute")
    ]
    span = figures.limits(groups)
    profile = figures.profile(groups, baselines={}, limits=span)
    assert [t["name"] for t in profile["data"] if t.get("showlegend")] == NINE
    assert sum(t.get("marker", {}).get("symbol") == "diamond" for t in profile["data"]) == 6
