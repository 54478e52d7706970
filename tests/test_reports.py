"""Reports: what is read is what was written, what is shown is what was read, and the page needs no network."""

from __future__ import annotations

import ast
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
from deepsup.reports import curves, figures, formats, read, summary, tables

from .synthetic_journals import BRANCHES, COMPARISON, LAYERS, STEPS, journal, make_demo, write


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
                       epochs  train  train  train  infer  infer infer
 arm      accuracy %  to 90 %   time params  FLOPs params  FLOPs  time
 ─────────────────────────────────────────────────────────────────────
 sgd
 plain    11.0 ± 1.7    never 14.0 s  213 k 3.94 M  213 k 3.94 M  1.0x
 aux[1]   96.0 ± 1.0 5, 6, 11 17.0 s 1.25 M 4.01 G  213 k 3.94 M  1.0x

 adam
 plain             –        –      –      –      –      –      –     –
 0/1 runs
 aux[1]            –        –      –      –      –      –      –     –
"""  # noqa: RUF001

RUN_TABLE = """sgd/supervised/seed0

 state                     finished, 12 epochs
 accuracy                  97.1 %, best 97.1 %
 accuracy of branches, %   conv3 77.6, conv6 83.5, conv9 89.3
 epochs to 90 %            5
 training time             14.2 s, 24.5 ms per step
 parameters                213 k + 34.6 k in branches while training
 FLOPs per sample          3.94 M + 69.1 k in branches while training
"""


def test_comparison_table_is_golden() -> None:
    assert shown(reports.comparison_table(COMPARISON)) == TABLE


def test_run_table_is_golden(demo: Path) -> None:
    assert shown(reports.run_table(read.run(demo / "sgd/supervised/seed0"))) == RUN_TABLE


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
    rows = [row for row in Page(page).rows if len(row) == 11 and row[1] in ("plain", "supervised")]
    arms = [demo / group / arm for group in ("sgd", "adam") for arm in ("plain", "supervised")]
    for row, folder in zip(rows, arms, strict=True):
        texts = [(folder / f"seed{seed}" / "journal.jsonl").read_text() for seed in range(3)]
        ends = [json.loads(text.splitlines()[-1]) for text in texts]
        final = [100 * end["accuracy"] for end in ends]
        assert row[1] == folder.name
        assert row[3] == f"{statistics.fmean(final):.1f} ± {statistics.stdev(final):.1f}"
        assert row[5] == f"{statistics.fmean(end['seconds'] for end in ends):.1f} s"


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
        "reach the first layers", "Gradient by depth", "Accuracy over epochs", "Weights over training", "What was attached",
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
    for draw in (reports.gradient_picture, reports.accuracy_picture):
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
        del group["verdict"]
    (tmp_path / "compare.json").write_text(json.dumps(compare))
    text = Page(reports.render(tmp_path)).text
    assert "runs finished: plain 0 of 3, supervised 0 of 3" in text
    assert "No gradients were recorded" in text
    assert "No epoch has finished yet" in text
    for draw in (reports.gradient_picture, reports.accuracy_picture):
        with pytest.raises(ConfigError, match=r"no gradients were recorded|no epoch has finished"):
            draw(tmp_path, tmp_path / "x.png")


def test_a_comparison_that_contradicts_its_journals_is_noticed(demo: Path, tmp_path: Path) -> None:
    compare = json.loads((make_demo(tmp_path) / "compare.json").read_text())
    assert not summary.evidence(tmp_path).notes
    compare["groups"][0]["arms"]["plain"]["final"][1] = 0.99
    (tmp_path / "compare.json").write_text(json.dumps(compare))
    assert "gives sgd/plain/seed1 an accuracy of 99.0 %, its journal 8" in summary.evidence(tmp_path).notes[0]


def test_a_torn_last_line_is_forgiven_and_no_other(tmp_path: Path) -> None:
    records = journal("sgd", "plain", 0, epochs=2, end=False)
    assert len(read.run(write(tmp_path, records, tail='{"kind":"epoch","ep')).epochs) == 2
    assert len(read.run(write(tmp_path, records, tail=json.dumps({"kind": "later", "x": 1}))).epochs) == 2
    write(tmp_path, records, tail='{"kind":"epoch","ep\n')
    with pytest.raises(ConfigError, match=rf"journal\.jsonl, line {len(records) + 1}: not a JSON record"):
        read.run(tmp_path)
    write(tmp_path, [*records, {"kind": "epoch", "epoch": 3}])
    with pytest.raises(
        ConfigError, match=rf'line {len(records) + 1}: a malformed "epoch" record \(no field \'step\'\)'
    ):
        read.run(tmp_path)
    write(tmp_path, records[1:])
    with pytest.raises(ConfigError, match='line 1: a journal begins with a "start" record'):
        read.run(tmp_path)
    write(tmp_path, [records[0] | {"format": 2}])
    with pytest.raises(ConfigError, match="line 1: format 2, and this deepsup reads format 1"):
        read.run(tmp_path)
    write(tmp_path, [], tail='{"kind":"sta')
    with pytest.raises(ConfigError, match="killed before its first line"):
        read.run(tmp_path)


def test_a_resumed_run_counts_nothing_twice(tmp_path: Path) -> None:
    first = journal("sgd", "plain", 0, epochs=5, end=False)
    again = [r for r in journal("sgd", "plain", 0) if r["kind"] in ("epoch", "step", "end") and r["step"] >= 3 * STEPS]
    again = [r for r in again if r.get("epoch", 9) > 3]
    resumed = read.run(write(tmp_path, [*first, {"kind": "resume", "time": 0, "step": 3 * STEPS}, *again]))
    undisturbed = read.run(write(tmp_path / "other", journal("sgd", "plain", 0)))
    assert resumed.epochs == undisturbed.epochs
    assert resumed.steps == undisturbed.steps
    assert (resumed.resumed, tables.state(resumed)) == ((135,), "finished, 12 epochs, resumed 1x")


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


def test_reports_import_nothing_that_trains() -> None:
    for file in Path(read.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.startswith("torch")], file
            assert not [
                n for n in names if n.startswith("deepsup.") and not n.startswith(("deepsup.reports", "deepsup.errors"))
            ]


def test_figures_hold_many_layers_arms_and_groups(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]
    arms = {"plain": members["plain"], "a": members["supervised"], "b": members["supervised"]}
    groups = dict.fromkeys(("one", "two", "three"), arms)
    span = figures.limits(groups)
    assert len(figures.gradients(arms, limits=span)["data"]) == 3 * len(LAYERS) + 1
    names = [t["name"] for t in figures.accuracy(groups, baselines={})["data"] if t.get("showlegend")]
    assert len(names) == len(set(names)) == 3 + 2 * len(BRANCHES)
