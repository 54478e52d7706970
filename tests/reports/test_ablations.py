"""The curve of an ablation: every seed where it belongs, means and intervals from a trusted library."""

from __future__ import annotations

import json
import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from deepsup import reports
from deepsup.errors import ConfigError
from deepsup.reports import ablations, panels
from deepsup.reports.ablations import Point, ablation, points
from tests.support.drawn_figures import legend, levels, lines, said
from tests.support.drawn_figures import points as points_of
from tests.support.shown_reports import Page
from tests.support.synthetic_maps import WEIGHTS, make_ablation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ablation(tmp_path_factory.mktemp("runs") / "weights")


@pytest.fixture(scope="module")
def compare(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "compare.json").read_text())
    return found


def test_points_hold_every_seed_its_mean_and_the_t_interval(compare: dict[str, Any]) -> None:
    (group,) = compare["groups"]
    found = points(compare, group)
    assert [(p.arm, p.x) for p in found] == [(arm, float(weight)) for arm, weight in WEIGHTS.items()]
    for point in found:
        final = group["arms"][point.arm]["final"]
        low, high = stats.t.interval(0.95, len(final) - 1, loc=statistics.fmean(final), scale=stats.sem(final))
        assert list(point.scores) == final
        assert (point.mean, point.low, point.high) == pytest.approx((statistics.fmean(final), low, high), rel=1e-12)


def test_numbers_are_sorted_and_texts_keep_their_order(compare: dict[str, Any]) -> None:
    arms = {"b": {"final": [0.5]}, "a": {"final": [0.4, None]}, "c": {"final": [None]}}
    numbers = {"vary": {"key": "k", "values": {"b": 2, "a": -1.5, "c": 0}}, "groups": []}
    assert [(p.arm, p.x, p.scores) for p in points(numbers, {"arms": arms})] == [
        ("a", -1.5, (0.4,)),
        ("b", 2.0, (0.5,)),
    ]
    texts = {"vary": {"key": "k", "values": {"b": "layer2", "a": 3, "c": "x"}}, "groups": []}
    assert [p.x for p in points(texts, {"arms": arms})] == ["layer2", "3"]
    assert all(math.isnan(end) for p in points(texts, {"arms": arms}) for end in (p.low, p.high))


def test_the_figure_draws_seeds_means_intervals_and_the_baseline(compare: dict[str, Any]) -> None:
    (group,) = compare["groups"]
    sheet = ablation(compare, metric="mean IoU")
    assert sheet is not None
    (panel,) = sheet.panels
    found, drawn = points(compare, group), lines(panel)
    means = [(weight, statistics.fmean(group["arms"][arm]["final"])) for arm, weight in WEIGHTS.items()]
    assert points_of(drawn["mean"]) == means
    assert points_of(drawn["one seed"]) == [
        (weight, score) for arm, weight in WEIGHTS.items() for score in group["arms"][arm]["final"]
    ]
    assert points_of(drawn["baseline"]) == means[:1]
    edges = drawn["95 % interval of the mean"].get_paths()[0].vertices.tolist()
    assert all([p.x, end] in edges for p in found for end in (p.low, p.high))
    assert panel.get_ylabel() == "mean IoU after the last epoch"
    assert panel.get_xlabel() == "supervise.weight"
    assert levels(panel) == [group["arms"]["0"]["mean"]]
    assert said(panel) == []


def test_a_baseline_without_a_value_is_a_named_level(compare: dict[str, Any]) -> None:
    values = {arm: weight for arm, weight in WEIGHTS.items() if arm != "0"}
    sheet = ablation(compare | {"vary": {"key": "supervise.weight", "values": values}})
    assert sheet is not None
    assert "baseline" not in legend(sheet)
    assert said(sheet.panels[0]) == ["0, the baseline"]


def test_texts_stand_on_the_axis_in_their_order(compare: dict[str, Any]) -> None:
    values = {"1": "everywhere", "0": "nowhere", "0.4": "at <layer3>"}
    sheet = ablation(compare | {"vary": {"key": "supervise.at", "values": values}})
    assert sheet is not None
    assert [label.get_text() for label in sheet.panels[0].get_xticklabels()] == list(values.values())
    assert [x for x, _ in points_of(lines(sheet.panels[0])["mean"])] == [0, 1, 2]


def test_what_is_no_ablation_or_has_one_value_has_no_figure(compare: dict[str, Any]) -> None:
    assert ablation({key: value for key, value in compare.items() if key != "vary"}) is None
    assert ablation(compare | {"vary": {"key": "k", "values": {}}}) is None
    assert ablation(compare | {"vary": {"key": "k", "values": {"0": 0}}}) is None
    assert ablation(compare | {"vary": None}) is None


def test_two_seeds_have_no_interval(compare: dict[str, Any]) -> None:
    (group,) = compare["groups"]
    arms = {arm: {**told, "final": told["final"][:2]} for arm, told in group["arms"].items()}
    few = compare | {"groups": [{**group, "arms": arms}]}
    assert all(math.isnan(p.low) and math.isnan(p.high) and len(p.scores) == 2 for p in points(few, few["groups"][0]))
    sheet = ablation(few)
    assert sheet is not None
    assert legend(sheet) == ["mean", "one seed", "baseline"]
    assert len(points_of(lines(sheet.panels[0])["one seed"])) == 2 * len(WEIGHTS)


def test_the_axis_shows_all_seeds_and_not_all_of_a_wide_interval() -> None:
    wide = Point("a", 1.0, (0.5, 0.51), 0.505, 0.44, 0.57)
    assert ablations.span([wide]) == pytest.approx((0.49, 0.52))
    tight = Point("a", 1.0, (0.5, 0.51), 0.505, 0.495, 0.512)
    assert ablations.span([tight]) == pytest.approx((0.495, 0.512))
    assert ablations.span([Point("a", 1.0, (1.0,), 1.0, math.nan, math.nan)]) == (1.0, 1.0)


def test_the_page_shows_the_curve_of_an_ablation_alone(folder: Path) -> None:
    html = reports.render(folder)
    assert "What supervise.weight changes" in Page(html).text
    assert '<figure id="ablation-0"' in html
    assert "What supervise.weight changes" not in Page(reports.render(folder / "camvid/0/seed0")).text


def test_the_picture_is_the_figure(folder: Path, tmp_path: Path) -> None:
    png = reports.picture("ablation", folder, tmp_path / "new/ablation.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 1800
    compare = json.loads((folder / "compare.json").read_text())
    same = panels.save(partial(ablation, compare, metric=compare["metric"]), tmp_path / "same.png")
    assert same.read_bytes() == png
    with pytest.raises(ConfigError, match=r"no group 'lion'.*'camvid'"):
        reports.picture("ablation", folder, tmp_path / "x.png", group="lion")
    with pytest.raises(ConfigError, match="holds no ablation with two finished values"):
        reports.picture("ablation", folder / "camvid/0/seed0", tmp_path / "x.png")
