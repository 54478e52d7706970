"""What a comparison says and what its journals say: verdicts of old and new files, and where the two disagree."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from deepsup import reports
from deepsup.reports import summary
from deepsup.reports.summary import baseline, judged
from tests.support.shown_reports import Page
from tests.support.synthetic_journals import COMPARISON, make_demo


def test_a_comparison_that_contradicts_its_journals_is_noticed(demo: Path, tmp_path: Path) -> None:
    compare = json.loads((make_demo(tmp_path) / "compare.json").read_text())
    assert not summary.evidence(tmp_path).notes
    compare["groups"][0]["arms"]["plain"]["final"][1] = 0.99
    (tmp_path / "compare.json").write_text(json.dumps(compare))
    assert "gives sgd/plain/seed1 99.0 % accuracy, its journal 8" in summary.evidence(tmp_path).notes[0]


def test_the_baseline_stands_first_and_arms_without_runs_nowhere(demo: Path) -> None:
    found = summary.evidence(demo)
    assert found.baselines == {"sgd": "plain", "adam": "plain"}
    compare = {
        **found.compare,
        "groups": [{"name": "sgd", "baseline": "supervised", "arms": {"plain": {}, "supervised": {}, "new": {}}}],
    }
    runs = tuple(run for run in found.runs if run.group == "sgd")
    other = dataclasses.replace(found, compare=compare, runs=runs)
    assert list(other.ordered("sgd")) == ["supervised", "plain"]
    assert [len(runs) for runs in other.ordered("sgd").values()] == [3, 3]


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
