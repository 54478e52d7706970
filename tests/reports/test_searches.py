"""Tests of what a report shows of a search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deepsup import reports
from deepsup.reports import searches
from deepsup.reports.summary import evidence
from tests.support.command_line import call
from tests.support.drawn_figures import legend
from tests.support.searching_runs import trained
from tests.support.shown_reports import Page


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("searched") / "run", validation={"rerank": True})


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


def test_four_queries_are_shown_with_what_every_output_found(run: Path) -> None:
    page = Page(reports.render(run))
    told = json.loads((run / "search" / "search.json").read_text())
    shown = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [str(attrs["alt"]).partition(",")[0] for attrs in shown] == [query["name"] for query in told["queries"]]
    assert len(shown) == 4
    for attrs, query in zip(shown, told["queries"], strict=True):
        assert str(attrs["src"]).startswith("data:image/jpeg;base64,")
        main = query["outputs"]["main"]["right"]
        ranks = ", ".join(str(rank) for rank, right in enumerate(main, 1) if right)
        assert (f"main: right at {ranks}" if ranks else "main: none right") in str(attrs["alt"])
    assert "What each output finds" in page.text
    assert "its own camera is left out" in page.text.replace("identity on ", "")
    assert "maps.json" not in page.text  # nothing here is about label maps
    assert "main, re-ranked" in page.text  # beside the others in the table of all scores


def test_pictures_can_be_left_out_and_numbers_stay(run: Path) -> None:
    call("report", str(run), "--no-pictures")
    page = Page((run / "report.html").read_text())
    assert not [attrs for tag, attrs in page.tags if tag == "img"]
    assert "data:image/jpeg" not in (run / "report.html").read_text()
    assert "What each output finds" in page.text


def test_curves_are_of_all_outputs_and_begin_with_rank_1(run: Path) -> None:
    found = evidence(run)
    lines = searches.curves_of(found, "")
    assert list(lines) == ["early", "main", "ensemble"]
    for name, curve in lines.items():
        assert curve.mean[0] == found.runs[0].epochs[-1].scores[name]["rank-1"]
        assert list(curve.mean) == sorted(curve.mean)
    sheet = searches.by_rank({"": lines})
    assert sheet
    assert sorted(legend(sheet)) == ["early", "ensemble", "main"]
    assert searches.by_rank({"": {}}) is None


def test_what_is_damaged_is_a_sentence_and_nothing_leads_out_of_the_folder(run: Path) -> None:
    file = run / "search" / "search.json"
    told = json.loads(file.read_text())
    told["queries"][0]["file"] = "../../../etc/passwd"
    (run / "search" / told["queries"][1]["file"]).write_text("no picture")
    file.write_text(json.dumps(told))
    found = searches.searches(evidence(run))
    assert found
    assert (len(found.queries), len(found.problems)) == (2, 2)
    for text in ("{", "[]", '{"queries": 1, "cmc": {}}', '{"queries": [], "cmc": {"main": ["a"]}}'):
        file.write_text(text)
        broken = searches.searches(evidence(run))
        assert broken
        assert "search/search.json of figures is damaged" in broken.problems[0]
        assert "is damaged" in Page(reports.render(run)).text
    file.unlink()
    assert searches.searches(evidence(run)) is None
