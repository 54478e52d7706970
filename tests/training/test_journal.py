from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from deepsup.errors import CheckpointError
from deepsup.training.journal import Journal, LostJournalWarning, environment, parse_lines, read


def test_records_are_there_as_soon_as_they_are_written(tmp_path: Path):
    journal = Journal(tmp_path / "deep" / "journal.jsonl")
    journal.write("step", step=1, parts={"main": 0.5})
    (record,) = read(tmp_path / "deep" / "journal.jsonl")
    assert record["kind"] == "step"
    assert record["parts"] == {"main": 0.5}
    assert record["time"] > 0
    journal.close()


def test_a_journal_without_a_path_still_tells_its_sinks():
    seen: list[dict[str, object]] = []
    with Journal(None, sinks=(seen.append,)) as journal:
        journal.write("step", step=1)
        assert journal.offset == journal.sync() == 0
    assert seen[0]["step"] == 1


def test_going_on_at_an_offset_repeats_nothing(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.write("step", step=1)
        offset = journal.sync()
        journal.write("step", step=2)
    with Journal(path, offset=offset) as journal:
        journal.write("resume", step=1)
        journal.write("step", step=2)
    assert [(r["kind"], r["step"]) for r in read(path)] == [("step", 1), ("resume", 1), ("step", 2)]
    with Journal(path):  # a new run begins a new journal
        pass
    assert read(path) == []


def test_an_altered_journal_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.write("step", step=1)
        offset, sha256 = journal.sync(), journal.sha256
        journal.write("step", step=2)
    with Journal(path, offset=offset, sha256=sha256) as journal:
        journal.write("step", step=2)
        longer, whole = journal.sync(), journal.sha256
    damaged = path.read_bytes().replace(b'"step":', b'"stop":', 1)
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="is altered, but its checkpoint was written after"):
        Journal(path, offset=longer, sha256=whole)
    assert path.read_bytes() == damaged
    path.unlink()
    with pytest.warns(LostJournalWarning):
        Journal(path, offset=longer, sha256=whole).close()


def test_a_journal_shorter_than_its_checkpoint_knows_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"kind": "step"}\n')
    with pytest.raises(CheckpointError, match="17 bytes long, but its checkpoint was written after 99 bytes"):
        Journal(path, offset=99)
    assert path.read_text() == '{"kind": "step"}\n'


@pytest.mark.parametrize("left", [None, b""])
def test_a_journal_of_which_nothing_is_left_is_begun_again_with_a_warning(tmp_path: Path, left: bytes | None):
    path = tmp_path / "journal.jsonl"
    if left is not None:
        path.write_bytes(left)
    with pytest.warns(LostJournalWarning, match=r"journal\.jsonl is lost"):
        journal = Journal(path, offset=99)
    with journal:
        assert journal.lost
        journal.write("resume", step=1)
    assert len(read(path)) == 1
    with Journal(path, offset=path.stat().st_size) as journal:
        assert not journal.lost


def test_what_is_not_a_number_becomes_null_and_valid_json(tmp_path: Path):
    with Journal(tmp_path / "j") as journal:
        journal.write("step", total=math.nan, parts={"main": math.inf, "b": 1.0}, many=[-math.inf])
    record = json.loads((tmp_path / "j").read_text())
    assert (record["total"], record["parts"], record["many"]) == (None, {"main": None, "b": 1.0}, [None])


def test_a_half_written_last_line_is_left_out(tmp_path: Path):
    data = b'{"kind": "a"}\n{"kind": "b"}\nnonsense\n{"kind": "c'
    records, used = parse_lines(data)
    assert [r["kind"] for r in records] == ["a", "b"]
    assert data[used:] == b'{"kind": "c'
    (tmp_path / "j").write_bytes(data)
    assert [r["kind"] for r in read(tmp_path / "j", "b")] == ["b"]
    assert read(tmp_path / "absent") == []


def test_the_environment_says_what_numbers_depend_on():
    stamp = environment()
    names = {"python", "torch", "deepsup", "platform", "processor", "device", "threads", "commit", "command"}
    assert set(stamp) == names
    assert all(stamp[name] for name in names - {"commit"})
    json.dumps(stamp)


@pytest.mark.parametrize("fate", ["moved", "replaced", "removed"])
def test_a_journal_that_is_no_longer_at_its_place_ends_the_run(tmp_path: Path, fate: str):
    path = tmp_path / "run/journal.jsonl"
    with Journal(path) as journal:
        journal.write("step", step=1)
        journal.sync()
        path.parent.rename(tmp_path / "elsewhere") if fate == "moved" else path.unlink()
        if fate == "replaced":
            path.write_text("mine")
        with pytest.raises(CheckpointError, match="moved, replaced or removed"):
            journal.sync()
    assert path.exists() is (fate == "replaced")


@pytest.mark.parametrize(
    "told", [{}, {"seconds": None}, {"seconds": 1, "score": "x"}, {"seconds": 1, "best_score": []}]
)
def test_an_end_that_does_not_say_what_ours_say_is_none(told: dict[str, object]):
    ours = {"kind": "end", "seconds": 1.5, "accuracy": 0.5}
    lines = "".join(json.dumps(record) + "\n" for record in (ours, {"kind": "end", **told}))
    assert parse_lines(lines.encode())[0] == [ours]
