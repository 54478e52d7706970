"""What a run's records hold: nothing twice after a resume, and the name of the metric."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepsup import reports
from deepsup.reports import curves, text_tables
from deepsup.training import run_folders
from tests.support.shown_reports import Page
from tests.support.synthetic_journals import STEPS, journal, write
from tests.support.synthetic_maps import make_ablation


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


def test_a_journal_of_today_names_its_score(tmp_path: Path) -> None:
    streets = make_ablation(tmp_path)
    run = run_folders.run(streets / "camvid/0.4/seed1")
    last = json.loads((streets / "camvid/0.4/seed1/journal.jsonl").read_text().splitlines()[-1])
    assert run.metric == "mean IoU"
    assert run.end is not None
    assert (run.end.score, run.end.best_score) == (last["score"], last["best_score"])
    assert run.epochs[-1].score["main"] == last["score"]
    assert run.epochs[-1].scores["main"]["mean IoU"] == last["score"]
    assert run.epochs[-1].scores["main"]["IoU: 2"] == pytest.approx(last["score"] - 0.1)
    assert reports.evidence(streets / "camvid/0.4/seed1").metric == "mean IoU"


def test_a_journal_from_before_scores_had_names_reads_as_accuracy() -> None:
    folder = Path(__file__).parents[2] / "benchmarks/results/digits-comparison"
    found = reports.evidence(folder)
    assert {run.metric for run in found.runs} == {found.metric} == {"accuracy"}
    assert all(run.end and run.end.score == run.epochs[-1].score["main"] for run in found.runs)
    page = Page(reports.render(folder)).text
    assert "points of accuracy" in page
    assert "All scores" not in page
    assert "What each output sees" not in page
