"""The figures from journals hold what they draw, of few arms and of many."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from deepsup import reports
from deepsup.reports import colours, curves, figures
from deepsup.reports.panels import NARROW, WIDE
from deepsup.training import run_folders
from tests.support.drawn_figures import colour, legend, levels, lines, points, said
from tests.support.synthetic_journals import BRANCHES, LAYERS, NINE, conflicts, write


def test_gradients_are_drawn_by_layer_from_dark_to_light_under_one_axis(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]
    arms = {"plain": members["plain"], "a": members["supervised"], "b": members["supervised"]}
    sheet = figures.gradients(arms, limits=figures.limits({"": arms}))
    assert sheet is not None
    assert [panel.get_title(loc="left") for panel in sheet.panels] == list(arms)
    for panel, runs in zip(sheet.panels, arms.values(), strict=True):
        drawn = panel.lines[: len(LAYERS)]
        assert [colour(line) for line in drawn] == colours.depth_colours(len(LAYERS))
        assert [points(line) for line in drawn] == [
            list(zip(c.x, c.mean, strict=True)) for c in curves.gradients(runs).values()
        ]
        assert panel.get_yscale() == "log"
        low, high = panel.get_ylim()
        assert low < min(map(min, (line.get_ydata() for line in drawn)))
        assert high > max(map(max, (line.get_ydata() for line in drawn)))
        assert levels(panel) == [curves.THRESHOLD]
    assert said(sheet.panels[-1]) == ["1e-7, the CNDS paper's threshold"]
    bar = sheet.figure.axes[-1]
    assert [label.get_text() for label in bar.get_yticklabels()] == LAYERS
    assert figures.gradients({}, limits=(1, 2)) is None


def test_an_entry_of_the_legend_stands_for_all_panels(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]
    arms = {"plain": members["plain"], "a": members["supervised"], "b": members["supervised"]}
    names = legend(figures.score(dict.fromkeys(("one", "two", "three"), arms), baselines={}))
    assert len(names) == len(set(names)) == 3 + 2 * (len(BRANCHES) + 1)
    assert names[:3] == ["plain: main output", "a: main output", "b: main output"]


def test_scores_are_means_over_seeds_with_their_range(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]
    sheet = figures.score({"sgd": members}, baselines={"sgd": "plain"})
    (panel,) = sheet.panels
    for arm, runs in members.items():
        for head, curve in curves.scores(runs).items():
            line = lines(panel)[f"{arm}: {'main output' if head == 'main' else head}"]
            assert points(line) == list(zip(curve.x, curve.mean, strict=True))
    low, high = (curves.scores(members["supervised"])["main"].low, curves.scores(members["supervised"])["main"].high)
    edges = {round(float(y), 9) for shade in panel.collections for y in shade.get_paths()[0].vertices[:, 1]}
    assert {round(y, 9) for y in (*low, *high)} <= edges
    assert levels(panel) == [0.9]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("epoch", "accuracy on validation data")


def test_the_conflict_timeline_holds_what_it_draws(demo: Path) -> None:
    arms = {"supervised": reports.evidence(demo).groups["sgd"]["supervised"]}
    sheet = figures.conflict(arms)
    assert legend(sheet) == list(BRANCHES)
    for panel, quantity, reference in zip(sheet.panels, ("cosine", "ratio", "kept"), (0, 1, 1), strict=True):
        found = curves.conflicts(arms["supervised"], quantity)
        assert {name: points(line) for name, line in lines(panel).items()} == {
            branch: list(zip(curve.x, curve.mean, strict=True)) for branch, curve in found.items()
        }
        low, high = panel.get_ylim()
        drawn = [y for curve in found.values() for y in (*curve.low, *curve.high)]
        assert low < min(drawn) < max(drawn) < high
        assert low < reference < high
    assert [panel.get_yscale() for panel in sheet.panels] == ["linear", "log", "linear"]
    assert max(x for x, _ in points(lines(sheet.panels[0])["conv9"])) < 0.81  # after that it was never measured


def test_a_branch_far_stronger_than_the_rest_leaves_the_others_readable(tmp_path: Path) -> None:
    records = ((10, 0.2, {"conv3": (0.5, 1e3, 501.0, 0.0)}), (10, 0.4, {"conv3": (-0.5, 1e3, -499.0, 1.0)}))
    write(tmp_path, conflicts(*records))
    sheet = figures.conflict({"": [run_folders.run(tmp_path)]})
    assert sheet.panels[2].get_ylim() == (-1, 3)


def test_of_many_arms_only_the_main_outputs_are_drawn_over_epochs(many: Path, demo: Path) -> None:
    sheet = figures.score(reports.evidence(many).groups, baselines={"all": "none"})
    assert legend(sheet) == NINE
    drawn = lines(sheet.panels[0])
    assert len(set(map(colour, drawn.values()))) == len(NINE)
    assert [line.get_linestyle() for line in drawn.values()] == ["-"] * 7 + ["--"] * 2
    assert "supervised: conv3" in legend(figures.score(reports.evidence(demo).groups, baselines={}))


def test_of_many_arms_the_weights_of_main_outputs_and_the_marks_of_branches_name_nothing(many: Path) -> None:
    groups = reports.evidence(many).groups
    weights = figures.weights(groups, baselines={})
    assert weights is not None
    assert legend(weights) == [
        f"{arm}: conv3, conv6 and conv9" for arm in NINE if arm not in ("none", "label-smoothing", "compute")
    ]
    profile = figures.profile(groups, baselines={}, limits=figures.limits(groups))
    assert legend(profile) == NINE
    assert sum(line.get_marker() == "D" for line in profile.panels[0].lines) == 6


def test_the_profile_stands_over_the_layers_in_their_order(demo: Path) -> None:
    groups = reports.evidence(demo).groups
    sheet = figures.profile(groups, baselines={}, limits=figures.limits(groups))
    for panel, arms in zip(sheet.panels, groups.values(), strict=True):
        curve = curves.profile(arms["supervised"])
        assert points(lines(panel)["supervised"]) == list(enumerate(curve.mean))
        assert [label.get_text() for label in panel.get_xticklabels()] == LAYERS
        marks = points(lines(panel)["supervised: a branch starts here"])
        assert [LAYERS[int(x)] for x, _ in marks] == list(BRANCHES)


def test_weights_fall_as_the_journal_says(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]
    sheet = figures.weights({"sgd": members}, baselines={"sgd": "plain"})
    assert sheet is not None
    assert points(lines(sheet.panels[0])["supervised: conv3, conv6 and conv9"]) == [
        (step.progress, pytest.approx(step.weights["conv3"])) for step in members["supervised"][0].steps
    ]
    assert figures.weights({"sgd": {"plain": members["plain"]}}, baselines={}) is None


def test_of_a_long_run_some_records_are_drawn_and_the_figure_says_so(demo: Path) -> None:
    (run, *_) = reports.evidence(demo).groups["sgd"]["supervised"]
    steps = tuple(dataclasses.replace(run.steps[0], step=i, progress=i / 5000) for i in range(1, 5001))
    groups = {"": {"supervised": [dataclasses.replace(run, steps=steps)]}}
    sheet = figures.weights(groups, baselines={})
    assert sheet is not None
    drawn = points(lines(sheet.panels[0])["supervised: main output"])
    assert len(drawn) <= curves.MOST + 1
    assert (drawn[0][0], drawn[-1][0]) == (1 / 5000, 1)
    assert sheet.caption == "Of long runs not all records are drawn: of the longest one in 17, and the last."
    assert not figures.score(groups, baselines={}).caption


def test_every_figure_is_drawn_for_a_phone_with_one_panel_beside_no_other(demo: Path) -> None:
    groups = reports.evidence(demo).groups
    sheet = figures.score(groups, baselines={}, width=NARROW)
    (first, second) = (panel.get_position() for panel in sheet.panels)
    assert first.x0 == second.x0
    assert first.y0 > second.y1


def test_a_phone_shows_the_whole_name_of_an_arm(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]
    titles = {}
    for width in (WIDE, NARROW):
        sheet = figures.gradients(members, limits=(1e-8, 1), width=width)
        assert sheet is not None
        titles[width] = [panel.get_title(loc="left") for panel in sheet.panels]
    assert titles == {
        WIDE: ["plain, mean of 3 seeds", "supervised, mean of 3 seeds"],
        NARROW: ["plain", "supervised"],
    }
