"""Reports: what is read is what was written, what is shown is what was read, and the page needs no network."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import statistics
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deepsup import reports
from deepsup.errors import ConfigError, MissingPackageError
from deepsup.reports import curves, figures, formats, panels, sections, summary, text_tables
from deepsup.reports import page as pages
from deepsup.training import run_folders
from tests.support.synthetic_journals import (
    BRANCHES,
    COMPARISON,
    LAYERS,
    STEPS,
    journal,
    make_demo,
    older,
    placement,
    write,
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("runs") / "demo")


def shown(table: Any, *, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


class Page(HTMLParser):
    """What a browser would see: every tag with its attributes, the cells of every table, and the text outside scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""
        if tag in ("table", "h2"):
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            return
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def page(demo: Path) -> str:
    return reports.render(demo)


TABLE = """
                       epochs  train  train  train infer
 arm      accuracy %  to 90 %   time params  FLOPs  time
 ───────────────────────────────────────────────────────
 sgd
 plain    11.0 ± 1.7    never 14.0 s  213 k 3.94 M  1.0x
 aux[1]   96.0 ± 1.0 5, 6, 11 17.0 s 1.25 M 4.01 G  1.0x

 adam
 plain             –        –      –      –      –     –
 0/1 runs
 aux[1]            –        –      –      –      –     –
"""  # noqa: RUF001

RUN_TABLE = """sgd/supervised/seed0

 state                     finished, 12 epochs
 accuracy                  97.1 %, best 97.1 %
 accuracy of branches, %   conv3 77.6, conv6 83.5, conv9 89.3
 ensemble, %               98.0
 epochs to 90 %            5
 steps in conflict, %      conv3 59, conv6 4, conv9 0 (of 480 measured)
 training time             14.2 s, 24.5 ms per step
 parameters                213 k + 34.6 k in branches while training
 FLOPs per sample          3.94 M + 69.1 k in branches while training
 memory of a step          2.9 MiB kept for the backward pass
"""


def test_comparison_table_is_golden() -> None:
    assert shown(reports.comparison_table(COMPARISON)) == TABLE
    assert reports.inference_line(COMPARISON) == "inference, every arm: 213 k parameters, 3.94 M FLOPs a sample"


def test_run_table_is_golden(demo: Path) -> None:
    assert shown(reports.run_table(run_folders.run(demo / "sgd/supervised/seed0"))) == RUN_TABLE


def test_verdicts_are_sentences() -> None:
    assert reports.verdict_lines(COMPARISON) == [
        "sgd: helps. aux[1] minus plain: +85.0 points of accuracy (95 % interval +82.0 to +88.0, n = 3 paired seeds)",
        "adam: no verdict yet. runs finished: plain 0 of 1, aux[1] 0 of 0",
    ]
    one = {
        "verdict": "no evidence",
        "mean_difference": -0.01,
        "ci_low": None,
        "ci_high": None,
        "n": 1,
        "reason": "add seeds",
    }
    group = {"name": "", "arms": {}, "verdict": one}
    line = "no evidence. candidate minus baseline: −1.0 points of accuracy (n = 1 paired seed: add seeds)"  # noqa: RUF001
    assert reports.verdict_lines({"groups": [group]}) == [line]
    none = one | {"mean_difference": None, "n": 0, "reason": "no pair of runs has finished"}
    assert reports.verdict_lines({"groups": [group | {"verdict": none}]}) == [
        "no evidence. no pair of runs has finished"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formats.count(999), "999"),
        (formats.count(103_434), "103 k"),
        (formats.count(9_996), "10.0 k"),
        (formats.count(999_700), "1.00 M"),
        (formats.duration(14.83), "14.8 s"),
        (formats.duration(725), "12 min 05 s"),
        (formats.duration(7_325), "2 h 02 min"),
        (formats.magnitude(1.23e-7), "1.2e-7"),
        (formats.magnitude(0.0), "0"),
        (formats.points(-0.00001), "0.0"),
        (formats.percent(math.nan), formats.NONE),
        (formats.epochs([]), formats.NONE),
        (formats.epochs([3, None]), "3, never"),
        (formats.epochs([3, 4, 5, 6, 7, None]), "median 5 (5 of 6)"),
        (formats.size(16_384), "16.0 KiB"),
        (formats.times(1.0), "1.0x"),
        (formats.strength(0.4), "0.4"),
        (formats.strength(0.0999), "0.1"),
        (formats.strength(12.34), "12"),
        (formats.strength(63_425), "63,000"),
        (formats.strength(3e-5), "3e-5"),
        (formats.strength(math.nan), formats.NONE),
        (formats.moment("2026-11-22T03:07:44Z"), "2026-11-22 03:07 UTC"),
        (formats.moment(0), "1970-01-01 00:00 UTC"),
        (formats.moment(None), ""),
        (formats.added(0.176), "+17.6 %"),
        (formats.added(0.0001), "under 0.1 %"),
        (formats.short("conv1"), "conv1"),
        (formats.short("features.denseblock1.denselayer12.conv1"), "…denselayer12.conv1"),
    ],
)
def test_numbers_are_spelled_one_way(text: str, expected: str) -> None:
    assert text == expected


def test_the_page_shows_what_the_journals_say(demo: Path, page: str) -> None:
    every = [row for row in Page(page).rows if row and row[1:2] in (["plain"], ["supervised"])]
    rows, costs = ([row for row in every if len(row) == n] for n in (8, 12))
    arms = [demo / group / arm for group in ("sgd", "adam") for arm in ("plain", "supervised")]
    for row, cost, folder in zip(rows, costs, arms, strict=True):
        texts = [(folder / f"seed{seed}" / "journal.jsonl").read_text() for seed in range(3)]
        ends = [json.loads(text.splitlines()[-1]) for text in texts]
        final = [100 * end["accuracy"] for end in ends]
        assert row[1] == folder.name
        assert row[3] == f"{statistics.fmean(final):.1f} ± {statistics.stdev(final):.1f}"
        assert cost[3] == f"{statistics.fmean(end['seconds'] for end in ends):.1f} s"
        assert cost[8] == ("1.9 MiB" if folder.name == "plain" else "2.9 MiB")


def test_curves_are_means_over_seeds(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]["supervised"]
    by_hand = statistics.fmean(run.gradients[4].layers["conv2"] for run in members)
    curve = curves.gradients(members)["conv2"]
    assert curve.x[4] == 4
    assert curve.mean[4] == pytest.approx(by_hand)
    assert curve.low[4] == min(run.gradients[4].layers["conv2"] for run in members)
    profile = curves.profile(members)
    assert profile.x == tuple(LAYERS)
    assert profile.mean[1] == pytest.approx(statistics.fmean(curve.mean))
    assert list(curves.weights(members)) == ["main", "conv3, conv6 and conv9"]
    assert curves.branch_layers(members) == ["conv3", "conv6", "conv9"]


def test_gradients_that_a_log_axis_cannot_show_are_left_out() -> None:
    curve = curves.Curve.of({0: [0.0], 1: [math.nan, 2e-9], 2: [math.inf], 3: [0.0, 2.0]})
    assert curve.x == (0, 1, 3)
    assert curve.positive() == curves.Curve(x=(1, 3), mean=(2e-9, 1.0), low=(2e-9, 1.0), high=(2e-9, 2.0))


def test_the_page_loads_nothing(page: str) -> None:
    tags = Page(page).tags
    policy = next(attrs["content"] or "" for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert not [attrs for _, attrs in tags if "src" in attrs or "srcset" in attrs]
    assert {tag for tag, attrs in tags if "href" in attrs} <= {"a", "link"}
    links = [attrs["href"] or "" for _, attrs in tags if "href" in attrs]
    assert sorted(links) == ["data:,", "sgd/supervised/seed0/certificate.json"]
    ours = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"https?:|url\(|@import", ours)
    assert page.count("plotly.js v") == 1


def test_the_page_says_everything_in_order(page: str) -> None:
    text = Page(page).text
    places = [
        "digits-demo", "deepsup report", "helps", "points of accuracy", "stated before the first run", "side by side",
        "What each arm cost", "What was checked before training", "Where branches belong, and why", "reach the first layers",
        "Gradient by depth", "Accuracy over epochs", "Accuracy over depth", "Weights over training",
        "Do the branches pull against the rest?",
        "What was attached",
        "linear(0.3, 0)", "all branches", "Strip certificate", "a1b2c3d4", "certificate.json", "come from",
        "deepsup compare demo.yaml", "0123abcd", "Configuration of",
    ]  # fmt: skip
    found = [text.find(place) for place in places]
    assert -1 not in found
    assert found == sorted(found)


def test_the_same_journals_give_the_same_page(demo: Path, page: str, tmp_path: Path) -> None:
    assert reports.render(demo) == page
    assert reports.write_html(demo, tmp_path) == tmp_path / "report.html"
    assert reports.write_html(demo, tmp_path / "new" / "page.html").is_file()
    assert not list(tmp_path.rglob("*.part"))


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    records = journal("sgd", "supervised", 0, epochs=2)
    text = json.dumps(records).replace("conv3", "</script><b onload=x>")
    html = reports.render(write(tmp_path, json.loads(text)))
    assert "</script><b" not in html
    assert "<b onload" not in html


def test_pictures_are_drawn(demo: Path, tmp_path: Path) -> None:
    for draw in (reports.gradient_picture, reports.score_picture):
        png = draw(demo, tmp_path / "pictures" / "one.png", group="adam").read_bytes()
        assert png.startswith(b"\x89PNG")
        assert int.from_bytes(png[16:20], "big") == 1800
        assert draw(demo / "sgd/plain/seed1", tmp_path / "single.png").is_file()
        with pytest.raises(ConfigError, match=r"no group 'lion'.*'sgd', 'adam'"):
            draw(demo, tmp_path / "x.png", group="lion")


def test_a_single_run_has_a_page_without_a_verdict(demo: Path) -> None:
    html = Page(reports.render(demo / "sgd" / "supervised" / "seed0")).text
    assert "Finished, 12 epochs. Accuracy 97.1 %." in html
    assert "stated before the first run" not in html
    assert "34.6 k in branches while training" in html
    plain = Page(reports.render(demo / "sgd" / "plain" / "seed0")).text
    assert "Nothing was attached" in plain
    assert "No branch had a weight" in plain
    assert "No certificate was found" in plain


def test_a_comparison_under_way_says_so(tmp_path: Path) -> None:
    write(tmp_path / "sgd/plain/seed0", journal("sgd", "plain", 0))
    write(tmp_path / "sgd/plain/seed1", journal("sgd", "plain", 1, epochs=3, end=False), tail='{"kind":"epo')
    stopped = {"kind": "stop", "time": 0, "reason": "the loss of branch 'conv3' is nan.", "step": 45}
    write(tmp_path / "sgd/supervised/seed0", [*journal("sgd", "supervised", 0, epochs=1, end=False), stopped])
    write(tmp_path / "sgd/supervised/seed1", [], tail='{"kind":"sta')
    text = Page(reports.render(tmp_path)).text
    assert "There is no compare.json here yet" in text
    assert "sgd/plain/seed1 has not finished: its journal ends after epoch 3." in text
    assert "sgd/supervised/seed0 stopped after epoch 1: the loss of branch 'conv3' is nan." in text
    assert "runs finished: plain 1 of 2, supervised 0 of 1" in text
    listed = {"runs": ["sgd/plain/seed0", "sgd/plain/seed1", "sgd/plain/seed2"]}
    stated = {
        "format": 1,
        "name": "half",
        "groups": [{"name": "sgd", "arms": {"plain": listed, "supervised": {"runs": []}}}],
    }
    (tmp_path / "compare.json").write_text(json.dumps(stated))
    text = Page(reports.render(tmp_path)).text
    assert "Not started yet, or journal missing: sgd/plain/seed2." in text
    assert "plain 1 of 3" in text


def test_a_comparison_that_has_only_been_announced_has_a_page(demo: Path, tmp_path: Path) -> None:
    compare = json.loads((demo / "compare.json").read_text())
    for group in compare["groups"]:
        group["arms"] = {arm: {"runs": fields["runs"]} for arm, fields in group["arms"].items()}
        del group["verdicts"]
    (tmp_path / "compare.json").write_text(json.dumps(compare))
    text = Page(reports.render(tmp_path)).text
    assert "runs finished: plain 0 of 3, supervised 0 of 3" in text
    assert "No gradients were recorded" in text
    assert "No epoch has finished yet" in text
    for draw in (reports.gradient_picture, reports.score_picture):
        with pytest.raises(ConfigError, match=r"no gradients were recorded|no epoch has finished"):
            draw(tmp_path, tmp_path / "x.png")


def test_a_comparison_that_contradicts_its_journals_is_noticed(demo: Path, tmp_path: Path) -> None:
    compare = json.loads((make_demo(tmp_path) / "compare.json").read_text())
    assert not summary.evidence(tmp_path).notes
    compare["groups"][0]["arms"]["plain"]["final"][1] = 0.99
    (tmp_path / "compare.json").write_text(json.dumps(compare))
    assert "gives sgd/plain/seed1 99.0 % accuracy, its journal 8" in summary.evidence(tmp_path).notes[0]


def test_a_torn_last_line_is_forgiven_and_no_other(tmp_path: Path) -> None:
    records = journal("sgd", "plain", 0, epochs=2, end=False)
    assert len(run_folders.run(write(tmp_path, records, tail='{"kind":"epoch","ep')).epochs) == 2
    assert len(run_folders.run(write(tmp_path, records, tail=json.dumps({"kind": "later", "x": 1}))).epochs) == 2
    write(tmp_path, records, tail='{"kind":"epoch","ep\n')
    with pytest.raises(ConfigError, match=rf"journal\.jsonl, line {len(records) + 1}: not a JSON record"):
        run_folders.run(tmp_path)
    write(tmp_path, [*records, {"kind": "epoch", "epoch": 3}])
    with pytest.raises(
        ConfigError, match=rf'line {len(records) + 1}: a malformed "epoch" record \(no field \'step\'\)'
    ):
        run_folders.run(tmp_path)
    write(tmp_path, records[1:])
    with pytest.raises(ConfigError, match='line 1: a journal begins with a "start" record'):
        run_folders.run(tmp_path)
    write(tmp_path, [records[0] | {"format": 2}])
    with pytest.raises(ConfigError, match="line 1: format 2, and this deepsup reads format 1"):
        run_folders.run(tmp_path)
    write(tmp_path, [], tail='{"kind":"sta')
    with pytest.raises(ConfigError, match="killed before its first line"):
        run_folders.run(tmp_path)


def test_a_resumed_run_counts_nothing_twice(tmp_path: Path) -> None:
    first = journal("sgd", "supervised", 0, epochs=5, end=False)
    again = [r for r in journal("sgd", "supervised", 0) if r.get("step", 0) >= 3 * STEPS]
    again = [r for r in again if r.get("epoch", 9) > 3]
    resumed = run_folders.run(write(tmp_path, [*first, {"kind": "resume", "time": 0, "step": 3 * STEPS}, *again]))
    undisturbed = run_folders.run(write(tmp_path / "other", journal("sgd", "supervised", 0)))
    assert resumed.epochs == undisturbed.epochs
    assert len(resumed.conflicts) == len(undisturbed.conflicts) > 50
    assert curves.pulls([resumed]) == curves.pulls([undisturbed])
    assert resumed.placement == undisturbed.placement
    assert resumed.findings == undisturbed.findings
    assert resumed.steps == undisturbed.steps
    assert (resumed.resumed, text_tables.state(resumed)) == ((135,), "finished, 12 epochs, resumed 1x")


def test_a_directory_without_a_journal_says_what_was_looked_for(tmp_path: Path) -> None:
    for ask in (reports.runs, reports.run, reports.render):
        with pytest.raises(ConfigError, match=r"no run found in .*Looked for journal\.jsonl .*compare\.json"):
            ask(tmp_path)
    with pytest.raises(ConfigError, match="which does not exist"):
        reports.runs(tmp_path / "nowhere")
    (tmp_path / "compare.json").write_text("{\n\n oops}")
    with pytest.raises(ConfigError, match=r"compare\.json, line 3: not JSON"):
        reports.runs(tmp_path)


@pytest.mark.parametrize(
    ("missing", "extra", "ask"),
    [
        ("plotly", "report", reports.render),
        ("jinja2", "report", reports.render),
        ("matplotlib", "report", lambda path: reports.gradient_picture(path, path / "x.png")),
        ("rich", "cli", lambda path: reports.comparison_table(COMPARISON)),
    ],
)
def test_a_missing_package_names_its_extra(
    missing: str, extra: str, ask: Callable[[Path], Any], demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=rf'package {missing}, .*pip install "deepsup\[{extra}\]"'):
        ask(demo)


def test_figures_hold_many_layers_arms_and_groups(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]
    arms = {"plain": members["plain"], "a": members["supervised"], "b": members["supervised"]}
    groups = dict.fromkeys(("one", "two", "three"), arms)
    span = figures.limits(groups)
    assert len(figures.gradients(arms, limits=span)["data"]) == 3 * len(LAYERS) + 1
    names = [t["name"] for t in figures.score(groups, baselines={})["data"] if t.get("showlegend")]
    assert len(names) == len(set(names)) == 3 + 2 * (len(BRANCHES) + 1)


def conflicts(
    *records: tuple[int, float, dict[str, tuple[float | None, float | None, float | None, float | None]]],
) -> Any:
    """Make the records of (steps, progress, branch -> cosine, ratio, kept, share), behind the start of a run."""
    names = ("cosine", "ratio", "kept", "share")
    made = [
        {"kind": "conflict", "time": 0, "step": i, "epoch": 1, "progress": progress, "steps": steps,
         "branches": {branch: dict(zip(names, values, strict=True)) for branch, values in branches.items()}}
        for i, (steps, progress, branches) in enumerate(records)
    ]  # fmt: skip
    return [*older(journal("sgd", "supervised", 0, epochs=1, end=False)), *made]


def test_a_pull_counts_every_step_once(tmp_path: Path) -> None:
    nothing = (None, None, None, None)
    records = conflicts(
        (10, 0.2, {"conv3": (0.5, 4.0, 1.0, 0.0), "conv6": nothing}),
        (30, 0.8, {"conv3": (-0.1, 1.0, 0.6, 1.0), "conv6": nothing}),
        (60, 0.9, {"conv3": nothing, "conv6": nothing}),
    )
    run = run_folders.run(write(tmp_path, records))
    found = curves.pulls([run])
    assert list(found) == ["conv3"]
    assert found["conv3"].cosine == pytest.approx(0.05)
    assert found["conv3"].ratio == pytest.approx(4 ** (1 / 4))
    assert found["conv3"].kept == pytest.approx(0.7)
    assert found["conv3"].share == pytest.approx(0.75)
    assert curves.pulls([run], until=0.5)["conv3"].share == 0
    assert curves.conflicts([run])["conv3"]["kept"].mean == (1.0, 0.6)
    assert curves.conflicts([run])["conv6"]["kept"].x == ()
    assert reports.evidence(tmp_path).single
    assert sections.pulls(reports.evidence(tmp_path)) == [
        "For 75 % of the 40 steps in which both gradients reached the layer (of 100) (0 % in the first half of training, "
        "100 % in the second) the branch at conv3 pulled against what the layers above wanted. Its pull was 1.4 times as "
        "strong as theirs and, over these steps, left 70 % of what they asked for."
    ]


@pytest.mark.parametrize(
    ("kept", "share", "says"),
    [
        (-0.2, 1.0, "turned what they asked for around"),
        (0.93, 0.5, "left 93 % of what they asked for"),
        (1.001, 0.5, "took nothing from them"),
        (
            1.4,
            0.0,
            "in none of the 10 steps in which both gradients reached the layer did the branch at conv3 pull against",
        ),
        (1.4, 0.0, "added 40 % to what they asked for"),
        (1.0, 0.001, "for under 1 % of the 10 steps in which both gradients reached the layer the branch"),
    ],
)
def test_what_a_branch_does_is_told_in_words(kept: float, share: float, says: str, tmp_path: Path) -> None:
    write(tmp_path, conflicts((10, 0.2, {"conv3": (0.5, 4.0, kept, share)})))
    (sentence,) = sections.pulls(reports.evidence(tmp_path))
    assert says in sentence[0].lower() + sentence[1:]


def test_cosines_at_the_parameters_are_told_where_they_were_sampled(tmp_path: Path) -> None:
    records = conflicts((10, 0.2, {"conv3": (0.5, 4.0, 3.0, 0.0)}), (10, 0.4, {"conv3": (0.5, 4.0, 3.0, 0.0)}))
    assert "At the parameters" not in sections.pulls(reports.evidence(write(tmp_path / "a", records)))[0]
    for record, cosine in zip(records[-2:], (-0.5, 0.1), strict=True):
        record["parameters"] = [{"step": record["step"], "conv3": {"cosine": cosine, "ratio": 2.0}}]
    told = sections.pulls(reports.evidence(write(tmp_path / "b", records)))[0]
    assert "looked at in 2 steps, the agreement was -0.20; there it pulled against the rest in 50 % of them." in told


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


def test_a_conflict_without_numbers_is_told_and_not_drawn(tmp_path: Path) -> None:
    write(tmp_path, conflicts((10, 0.2, {"conv3": (None, None, None, None)})))
    html = reports.render(tmp_path)
    assert "In no step did both gradients meet" in Page(html).text
    assert 'id="conflict-0"' not in html
    assert "in conflict" not in shown(reports.run_table(run_folders.run(tmp_path)))


NEW_SECTIONS = ("What was checked before training", "Where branches belong", "Do the branches pull", "before, without")


def test_journals_without_the_newer_records_have_the_page_they_had(demo: Path, tmp_path: Path) -> None:
    old = reports.render(write(tmp_path / "old", older(journal("sgd", "supervised", 0))))
    new = reports.render(demo / "sgd" / "supervised" / "seed0")
    for heading in NEW_SECTIONS:
        assert heading in new
        assert heading not in old
    for heading in ("Gradient by depth", "Accuracy over epochs", "What was attached"):
        assert heading in old


def test_findings_are_shown_once_errors_first_and_none_is_said(demo: Path, tmp_path: Path, page: str) -> None:
    found = sections.findings(reports.evidence(demo))
    assert found is not None
    assert [(row["error"], row["where"]) for row in found["rows"]] == [(True, "labels"), (False, "conv6")]
    assert found["rows"][1]["owners"] == "sgd / supervised and adam / supervised"
    assert found["unchecked"] is None
    (row,) = [row for row in Page(page).rows if row and row[0].startswith("warning")]
    assert row[1] == "relu6 overwrites what conv6 gives out."  # a name keeps its case
    assert row[3] == "Tap the layer that follows, or set inplace=False there."
    plain = Page(reports.render(demo / "sgd" / "plain" / "seed0")).text
    assert "No finding: none of the known traps" in plain
    write(tmp_path / "a/plain/seed0", journal("sgd", "plain", 0, epochs=1))
    write(tmp_path / "a/plain/seed1", older(journal("sgd", "plain", 1, epochs=1)))
    assert "Not checked: sgd/plain/seed1." in Page(reports.render(tmp_path)).text


def test_a_choice_of_layers_is_shown_with_its_reason(demo: Path) -> None:
    (choice,) = sections.placements(reports.evidence(demo))
    assert choice["owners"] == "sgd / supervised and adam / supervised"
    assert choice["reason"].startswith("The training signal fades")
    assert [place["layer"] for place in choice["shown"]][:4] == ["conv3", "conv6", "conv9", "conv1"]
    assert [place["chosen"] for place in choice["shown"]] == [True] * 3 + [False] * 5
    assert len(choice["shown"] + choice["hidden"]) == len(LAYERS) - 1
    others = [place["gradient"] for place in (choice["shown"] + choice["hidden"])[3:]]
    assert others == sorted(others)
    assert choice["shown"][0]["gradient"] == pytest.approx(placement()["gradients"]["conv3"])


@pytest.mark.parametrize(
    "probe", [None, {}, {"rows": None}, {"rows": "x"}, {"rows": [1, {"layer": "conv1", "tap": "conv1", "weight": [3]}]}]
)
def test_a_placement_is_read_without_a_probe_that_can_be_read(probe: Any, tmp_path: Path) -> None:
    records = journal("sgd", "supervised", 0, epochs=1)
    stated = next(r for r in records if r["kind"] == "placement")
    del stated["reason"]
    stated["probe"] = probe
    html = reports.render(write(tmp_path, records))
    text = Page(html).text
    assert "by the rule" in text
    assert "The reason:" not in text
    assert "Every place where a branch could go" not in text
    before = sections.before(run_folders.run(tmp_path))
    assert before is not None
    assert [g.layers for g in before.gradients] == [stated["gradients"]]
    assert "The steps before were made by the probe" not in text  # means alone are no timeline
    assert "before, without branches: the smallest mean gradient is 8.6e-9, in conv1" in text


def test_what_the_probe_saw_stands_beside_what_training_saw(demo: Path, tmp_path: Path) -> None:
    run = run_folders.run(demo / "sgd" / "supervised" / "seed0")
    before = sections.before(run)
    assert before is not None
    assert len(before.gradients) == 20
    assert curves.profile([before]).mean[0] == pytest.approx(placement()["gradients"]["conv1"])
    assert not curves.branch_layers([before])
    assert len(run.gradients) > 20
    as_many = dataclasses.replace(run, gradients=run.gradients[:20])
    gain = curves.profile([as_many]).mean[0] / curves.profile([before]).mean[0]
    text = " ".join(Page(reports.render(run.path)).text.split())
    assert f"gets {formats.strength(gain)} times that gradient" in text
    assert "over the first 20 iterations of each)." in text
    assert "the average over the first 20 iterations of each run for each layer" in text
    assert (
        f"The 20 steps before were made by the probe, with the loss at the end alone; the {len(run.gradients)} after"
        in text
    )
    records = journal("sgd", "supervised", 0, epochs=1)
    records[0]["plan"] = None  # the rule found nothing to supervise
    assert sections.before(run_folders.run(write(tmp_path, records))) is None


def test_a_comparison_says_what_the_weakest_layer_gains(demo: Path) -> None:
    found = reports.evidence(demo)
    sentences = sections.gains(found.groups, {"sgd": "plain", "adam": "plain"})
    assert [s.partition(":")[0] for s in sentences] == ["sgd / supervised", "adam / supervised"]
    assert "conv1, the weakest layer of “plain”, gets 4" in sentences[0]
    assert sections.gains(found.groups, {"sgd": None}) == []


def test_arms_are_compared_over_as_many_iterations(demo: Path) -> None:
    plain, supervised = (reports.evidence(demo).groups["sgd"][arm] for arm in ("plain", "supervised"))
    short = tuple(dataclasses.replace(run, gradients=run.gradients[:3]) for run in plain)
    arms, n = curves.same_span({"plain": short, "supervised": supervised, "not begun": ()})
    assert n == 3
    assert {len(run.gradients) for runs in arms.values() for run in runs} == {3}
    assert curves.profile(arms["plain"]) == curves.profile(short)
    loud = [dataclasses.replace(g, layers={k: 1e9 for k in g.layers}) for g in supervised[0].gradients]
    later = dataclasses.replace(
        supervised[0], gradients=(*supervised[0].gradients[:3], *loud[3:])
    )  # beyond what plain has
    (told,) = sections.gains({"": {"plain": short, "supervised": [later]}}, {"": "plain"})
    (same,) = sections.gains({"": {"plain": short, "supervised": supervised[:1]}}, {"": "plain"})
    assert told == same
    assert "over the first 3 iterations of each)." in told


def test_seeds_are_spoken_of_only_where_there_are_several(demo: Path, tmp_path: Path) -> None:
    assert "mean over seeds, the shade" in " ".join(Page(reports.render(demo)).text.split())
    assert "seeds" not in Page(reports.render(demo / "sgd" / "supervised" / "seed0")).text
    for arm in ("plain", "supervised"):
        write(tmp_path / "a" / arm / "seed0", journal("sgd", arm, 0, epochs=2))
    text = " ".join(Page(reports.render(tmp_path)).text.split())
    assert "Thick lines are the networks' own outputs, thin lines the branches." in text
    assert "the shade reaches" not in text


def test_the_page_explains_what_it_names(demo: Path) -> None:
    text = " ".join(Page(reports.render(demo)).text.split())
    assert "CNDS, the paper that set branches against vanishing gradients" in text
    assert "above 1 the branch adds to what is asked, which is good: nothing is lost" in text
    assert "At the very start of training conflict and a large relative strength are normal" in text


def test_more_panels_than_fit_go_on_below(demo: Path) -> None:
    layout = panels.beside(["a", "b", "c", "d"], height=400)["layout"]
    places = [(layout[f"xaxis{n}"]["domain"][0], layout[f"yaxis{n}"]["domain"]) for n in ("", "2", "3", "4")]
    assert places[0][0] == places[2][0] < places[1][0] == places[3][0]
    assert places[0][1] == places[1][1] > places[2][1] == places[3][1]
    assert layout["yaxis3"]["showticklabels"]
    assert places[2][1][1] < places[0][1][0]
    assert layout["height"] > 2 * 400 - 10
    groups = reports.evidence(demo).groups
    arms = {str(i): groups["sgd"]["supervised"] for i in range(3)}
    assert len(pages._conflicts(arms, single=False)) == 2
