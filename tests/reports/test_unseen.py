"""What a page says that nobody looked at."""

from __future__ import annotations

from pathlib import Path

from deepsup import reports
from deepsup.reports.unseen import Unseen, unseen
from deepsup.training import run_folders
from tests.support.shown_reports import Page
from tests.support.synthetic_journals import conflicts, journal, write


def whats(folder: Path) -> dict[str, Unseen]:
    return {line.what: line for line in unseen(reports.evidence(folder))}


def test_a_run_that_was_not_checked_says_so_and_one_that_was_says_of_what(tmp_path: Path) -> None:
    bare = [record for record in journal("sgd", "plain", 0, epochs=1) if record["kind"] != "findings"]
    found = whats(write(tmp_path / "bare", [r for r in bare if r["kind"] not in ("diagnosis", "gradients")]))
    assert "Gradients layer by layer" in found
    assert found["Another seed"].owners is None
    assert "Other images than those of validation" in found
    assert "Whether branches pull against the rest" not in found  # it has none


def test_pulls_and_certificates_are_missed_only_where_there_are_branches_without(tmp_path: Path) -> None:
    folder = write(tmp_path, conflicts((10, 0.2, {"conv3": (0.5, 4.0, 0.9, 0.5)})))
    run = reports.evidence(folder).runs[0]
    pull, bits = "Whether branches pull against the rest", "Whether the network without its branches is the plain one"
    assert pull not in whats(folder)
    if (run.plan or {}).get("branches"):
        assert bits in whats(folder)
        (run.path / run_folders.CERTIFICATE).write_text("{}")
        assert bits not in whats(folder)


def test_in_a_comparison_the_runs_are_named_that_lack_it(demo: Path, page: str) -> None:
    found = whats(demo)
    assert found["Batches after the first, and evaluation"].owners is None
    text = " ".join(Page(page).text.split())
    assert "What was not looked at Of these things no journal says anything, good or bad." in text
    assert "the search for traps reads one batch, before the first step" in text
