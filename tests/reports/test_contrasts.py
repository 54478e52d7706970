"""Reports of many arms: verdicts of old and new files, what each output scored, and figures that stay readable."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from deepsup import reports
from deepsup.comparisons.arm_records import outputs
from deepsup.reports import colours, contrasts, curves, depths, figures, formats, panels, text_tables
from deepsup.reports.summary import baseline, judged
from deepsup.training import run_folders
from tests.reports.test_page import Page, shown
from tests.support.synthetic_journals import BRANCHES, COMPARISON, LAYERS, NINE, make_demo, make_many


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_many(tmp_path_factory.mktemp("runs") / "many")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("runs") / "demo")


def group_of(folder: Path, index: int = 0) -> dict[str, Any]:
    group: dict[str, Any] = reports.evidence(folder).compare["groups"][index]
    return group


def test_verdicts_are_read_as_they_are_and_as_they_were_written() -> None:
    old, unjudged = COMPARISON["groups"]
    assert judged(old) == {"aux[1]": old["verdict"]}
    assert judged(unjudged) == {}
    new = {"verdicts": {"a": {"verdict": "helps", "baseline": "b"}, "c": None}, "arms": {"b": {}, "a": {}, "c": {}}}
    assert judged(new) == {"a": {"verdict": "helps", "baseline": "b"}}
    assert baseline(new) == "b"
    assert baseline({"arms": {"x": {}, "none": {}}}) == "none"
    assert baseline({"arms": {"x": {}, "y": {}}, "baseline": "y"}) == "y"
    assert baseline({"arms": {"x": {}}}) is None


def test_a_committed_comparison_of_two_arms_still_has_its_verdict() -> None:
    folder = Path(__file__).parents[2] / "benchmarks/results/digits-comparison"
    found = reports.evidence(folder)
    assert not found.notes
    lines = reports.verdict_lines(found.compare)
    assert lines[0].startswith(
        "sgd: helps. supervised minus plain: +86.5 points of accuracy (95 % interval +81.4 to +91.6"
    )
    assert "Accuracy over depth" in Page(reports.render(folder)).text


def test_outputs_are_scored_by_depth_and_by_seed(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]["supervised"]
    arm = group_of(demo)["arms"]["supervised"]
    assert list(arm["outputs"]) == [*BRANCHES, "main", "ensemble"]
    for name, output in arm["outputs"].items():
        assert output["final"] == [run.epochs[-1].score[name] for run in members]
    depth = {name: int(name[4:]) / len(LAYERS) for name in BRANCHES} | {"main": 1.0, "ensemble": None}
    assert {n: o["depth"] and round(o["depth"], 3) for n, o in arm["outputs"].items()} == {
        n: d and round(d, 3) for n, d in depth.items()
    }
    first = depths.of(arm)[0]
    values = arm["outputs"]["conv3"]["final"]
    assert (first.name, first.mean, first.low, first.high) == (
        "conv3",
        statistics.fmean(values),
        min(values),
        max(values),
    )
    assert [o.name for o in depths.branches(arm)] == list(BRANCHES)
    assert depths.ensemble(arm) == depths.of(arm)[-1]
    plain = group_of(demo)["arms"]["plain"]
    assert (depths.branches(plain), depths.ensemble(plain)) == ([], None)


def test_runs_without_an_end_and_whole_peers_have_their_place(demo: Path) -> None:
    run = run_folders.run(demo / "sgd/supervised/seed0")
    assert run.plan is not None
    peers = [{"name": "peer", "layer": "<input>", "depth": 0.0}, {"name": "conv3", "layer": "conv3", "depth": 0.25}]
    epoch = dataclasses.replace(run.epochs[-1], score={"main": 0.5, "peer": 0.6, "conv3": 0.4, "ensemble": 0.7})
    peered = dataclasses.replace(run, plan={"branches": peers}, epochs=(epoch,))
    found = outputs([peered, None])
    assert {name: output["depth"] for name, output in found.items()} == {
        "conv3": 0.25, "peer": 1.0, "main": 1.0, "ensemble": None,
    }  # fmt: skip
    assert found["peer"]["final"] == [0.6, None]


DEPTHS = """
 accuracy %
 at depth         23 %  46 %  69 %  main  ensemble
 ─────────────────────────────────────────────────
 none                                4.0
 label-smoothing                     4.4
 aux              38.9  41.8  44.8  48.7      49.1
"""

VERDICTS = """
 minus none       points  95 % interval  seeds  verdict
 ──────────────────────────────────────────────────────────
 label-smoothing    +0.2   −0.8 to +3.2      2  no evidence
 aux                +3.0                     1  helps
"""  # noqa: RUF001


def test_what_the_terminal_shows_of_many_arms_is_golden(many: Path) -> None:
    group = group_of(many)
    three = {"groups": [group | {"arms": {arm: group["arms"][arm] for arm in NINE[:3]}}]}
    assert shown(reports.depth_table(three)) == DEPTHS
    alone = {"verdict": "helps", "mean_difference": 0.03, "n": 1, "confidence": 0.95, "baseline": "none"}
    verdict = judged(group)["label-smoothing"] | {"mean_difference": 0.002, "ci_low": -0.008, "ci_high": 0.032}
    table = text_tables.verdict_table({"groups": [group | {"verdicts": {"label-smoothing": verdict, "aux": alone}}]})
    assert shown(table) == VERDICTS


def test_branches_at_many_depths_are_listed_in_a_cell() -> None:
    outputs = {f"layer{i}": {"depth": i / 10, "final": [i / 10]} for i in range(1, 9)} | {
        "main": {"depth": 1.0, "final": [0.9]}
    }
    compare = {"groups": [{"name": "g", "arms": {"aux": {"outputs": outputs}, "plain": {}}}]}
    text = " ".join(shown(reports.depth_table(compare), width=120).split())
    assert "aux 10 %: 10.0, 20 %: 20.0," in text
    assert text.endswith("80 %: 80.0 90.0 plain")
    assert "ensemble" not in text
    assert (
        reports.depth_table({"groups": [{"name": "g", "arms": {"plain": {"outputs": {"main": outputs["main"]}}}}]})
        is None
    )


def test_the_ledger_sets_every_arm_against_the_baseline(demo: Path) -> None:
    group = group_of(demo)
    longer = group["arms"]["supervised"] | {"epochs": [24, 24, 18], "peak_bytes": 3 * 2**30}
    plain, supervised = text_tables.rows(
        {"groups": [group | {"arms": {"plain": group["arms"]["plain"], "supervised": longer}}]}
    )
    assert (plain.compute, plain.trained, plain.saved, plain.peak, plain.difference) == (
        "1.0x",
        "12",
        "1.9 MiB",
        formats.NONE,
        formats.NONE,
    )
    factor = (3_940_000 + 69_120) / 3_940_000 * 22 / 12
    assert supervised.compute == f"{factor:.1f}x" == "1.9x"
    assert (supervised.trained, supervised.saved, supervised.peak) == ("18 to 24", "2.9 MiB", "3.0 GiB")
    assert supervised.step == "24.5 ms"
    twice = {"groups": [group | {"arms": {"plain": group["arms"]["plain"], "supervised": longer | {"passes": 2}}}]}
    assert text_tables.rows(twice)[1].compute == f"{2 * factor:.1f}x"  # every image went through the network twice
    assert (supervised.inference_params, supervised.inference_flops) == (plain.inference_params, plain.inference_flops)
    assert (
        reports.inference_line({"groups": [group]}) == "inference, every arm: 213 k parameters, 3.94 M FLOPs a sample"
    )
    longer["inference_flops"] = 4e6
    other = {"groups": [group | {"arms": {"plain": group["arms"]["plain"], "supervised": longer}}]}
    assert reports.inference_line(other) is None
    assert "4.00 M" in shown(reports.comparison_table(other), width=120)  # a method that changes inference is seen


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


@pytest.mark.parametrize(
    ("values", "ends", "step"),
    [
        ([0.08, 0.97], (0.0, 1.0), 0.2),
        ([0.553, 0.587], (0.55, 0.59), 0.01),
        ([0.41, 0.55], (0.4, 0.56), 0.02),
        ([0.5], (0.5, 0.5), 0.01),
    ],
)
def test_an_axis_of_shares_fits_what_is_drawn(values: list[float], ends: tuple[float, float], step: float) -> None:
    figure = panels.beside(["a", "b"], height=300)
    assert panels.shares(figure, values) == pytest.approx(ends)
    for axis in ("yaxis", "yaxis2"):
        low, high = figure["layout"][axis]["range"]
        assert low <= ends[0] <= min(values) <= max(values) <= ends[1] <= high
        assert figure["layout"][axis]["dtick"] == step


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


def test_many_losses_that_share_a_weight_are_not_all_named(demo: Path) -> None:
    run = run_folders.run(demo / "sgd/supervised/seed0")
    names = ["main", *(f"branch{i}<-main" for i in range(12))]
    steps = tuple(dataclasses.replace(step, weights=dict.fromkeys(names, 1.0)) for step in run.steps)
    assert list(curves.weights([dataclasses.replace(run, steps=steps)])) == ["main and 12 more"]


def test_the_page_of_nine_arms_is_whole_and_in_order(many: Path) -> None:
    html = reports.render(many)
    page = Page(html)
    text = " ".join(page.text.split())
    found = [text.find(arm + " minus none") for arm in NINE[1:]]
    assert -1 not in found
    assert found == sorted(found)
    assert "How much each arm differs" in text
    assert "In words, arm by arm" in text
    rows = [row for row in page.rows if row and row[0] in NINE]
    assert [row[0] for row in rows if len(row) == 7] == NINE
    assert [row[0] for row in rows if len(row) == 11] == NINE
    for name in ("differences", "score", "depth", "profile", "weights", "gradients-0"):
        assert f'<div id="{name}"' in html


def test_pictures_of_many_arms_show_the_main_outputs_and_the_first_candidate(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    names: list[str] = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: (names.append(k.get("label", "")), plot(self, *a, **k))[1])
    reports.score_picture(many, tmp_path / "accuracy.png")
    assert names == NINE
    titles: list[str] = []
    head = Axes.set_title
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **k: (titles.append(text), head(self, text, **k))[1])
    reports.gradient_picture(many, tmp_path / "gradients.png")
    assert titles[:2] == ["none (mean of 2 seeds)", "label-smoothing (mean of 2 seeds)"]


def test_terms_between_outputs_are_shown_with_the_plan(demo: Path, tmp_path: Path) -> None:
    text = (demo / "sgd/supervised/seed0/journal.jsonl").read_text()
    start, *rest = text.splitlines()
    record = json.loads(start)
    edge = {"from": "conv3", "to": "main", "loss": "kl(temperature=3)", "weight": "1", "detach": True}
    record["plan"] |= {"edges": [edge], "main_loss": "squared_hinge"}
    (tmp_path / "journal.jsonl").write_text("\n".join([json.dumps(record), *rest]) + "\n")
    shown_text = " ".join(Page(reports.render(tmp_path)).text.split())
    assert (
        "own output is trained by squared_hinge. Outputs also learn from each other: conv3 <- main: kl(temperature=3)"
        in shown_text
    )
    assert "learn from each other" not in Page(reports.render(demo / "sgd/supervised/seed0")).text
