"""Journals and comparisons are read from disk as they were left there: torn, resumed, announced or absent."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from deepsup import reports
from deepsup.errors import ConfigError
from deepsup.training import run_folders
from tests.support.synthetic_journals import journal, write


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


@pytest.mark.parametrize(
    "wrong", [{"config": []}, {"plan": "x"}, {"seed": "x"}, {"cost": 3}, {"environment": [1]}, {"epochs": "2"}]
)
def test_a_start_of_another_kind_is_named(wrong: dict[str, object], tmp_path: Path) -> None:
    start, *rest = journal("sgd", "plain", 0, epochs=2, end=False)
    with pytest.raises(ConfigError, match=rf'line 1: a malformed "start" record \({next(iter(wrong))}: '):
        run_folders.run(write(tmp_path, [start | wrong, *rest]))
    with pytest.raises(ConfigError, match=r'a malformed "epoch" record \(cannot convert float infinity'):
        run_folders.run(write(tmp_path, [start, *rest, {"kind": "epoch", "epoch": 3, "step": math.inf}]))


def test_a_directory_without_a_journal_says_what_was_looked_for(tmp_path: Path) -> None:
    for ask in (reports.runs, reports.run, reports.render):
        with pytest.raises(ConfigError, match=r"no run found in .*Looked for journal\.jsonl .*compare\.json"):
            ask(tmp_path)
    with pytest.raises(ConfigError, match="which does not exist"):
        reports.runs(tmp_path / "nowhere")
    (tmp_path / "compare.json").write_text("{\n\n oops}")
    with pytest.raises(ConfigError, match=r"compare\.json, line 3: not JSON"):
        reports.runs(tmp_path)


@pytest.mark.parametrize("name", ["../other", "a/../../other", "/etc"])
def test_a_comparison_lists_no_run_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path / "other", journal("sgd", "plain", 0, epochs=2))
    (tmp_path / "mine").mkdir()
    told = {"format": 1, "groups": [{"name": "sgd", "arms": {"plain": {"runs": [name]}}}]}
    (tmp_path / "mine" / "compare.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=rf"compare\.json lists the run '{name}', which does not lie in its folder"):
        reports.runs(tmp_path / "mine")
