"""The list of what deepsup wrote: others' files are refused by name, and a kill at any moment leaves ours ours."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from deepsup import ownership
from deepsup.errors import ConfigError
from deepsup.ownership import MANIFEST, foreign, recorded, refuse_foreign, write, write_text


def test_what_was_written_is_listed_and_may_be_written_again(tmp_path: Path) -> None:
    write_text(tmp_path, "a/b.txt", "one")
    assert recorded(tmp_path) == {"a/b.txt": ownership.sha256(tmp_path / "a" / "b.txt")}
    write_text(tmp_path, "a/b.txt", "two")
    assert (tmp_path / "a" / "b.txt").read_text() == "two"
    assert recorded(tmp_path) == {"a/b.txt": ownership.sha256(tmp_path / "a" / "b.txt")}
    (tmp_path / "a" / "b.txt").unlink()
    write_text(tmp_path, "a/b.txt", "three")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b.txt", MANIFEST]


def test_what_was_written_is_removed_and_nothing_of_somebody_else(tmp_path: Path) -> None:
    for name in ("ours", "changed"):
        write_text(tmp_path, name, "one")
    (tmp_path / "changed").write_text("mine")
    (tmp_path / "mine").write_text("mine")
    for name in ("ours", "changed", "mine", "absent"):
        ownership.remove(tmp_path, name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["changed", MANIFEST, "mine"]
    assert list(recorded(tmp_path)) == ["changed"]


def test_what_is_somebody_elses_or_was_changed_is_refused_by_name_and_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    write_text(tmp_path, "ours", "one")
    (tmp_path / "ours").write_text("changed")
    names = ["mine", "folder", "link", "mine/below", "ours", "absent"]
    assert foreign(tmp_path, names) == names[:-1]
    with pytest.raises(ConfigError, match="did not write, or that were changed since: mine, ours"):
        refuse_foreign(tmp_path, ["mine", "ours", "absent"])
    for name in names[:-1]:
        with pytest.raises(ConfigError, match=name):
            write_text(tmp_path, name, "ours")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "ours").read_text() == "changed"
    assert foreign(tmp_path / "mine", ["a"]) == ["a"]  # a folder that is a file


@pytest.mark.parametrize("killed_at", [1, 2])
def test_a_kill_between_list_and_file_leaves_both_ours(
    tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path, "file", "old")
    calls, replace = [], os.replace

    def dies(*paths: Path) -> None:
        calls.append(paths)
        if len(calls) == killed_at:  # of the list, then of the file
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path, "file", "new")
    monkeypatch.undo()
    assert (tmp_path / "file").read_text() == "old"
    assert foreign(tmp_path, ["file"]) == []
    write_text(tmp_path, "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_what_grows_is_ours_whatever_it_holds(tmp_path: Path) -> None:
    ownership.claim(tmp_path, ["journal"])
    (tmp_path / "journal").write_text("anything")
    assert foreign(tmp_path, ["journal"]) == []
    (tmp_path / "left").write_text("by an earlier version")
    ownership.claim(tmp_path, ["left"], growing=False)
    assert foreign(tmp_path, ["left"]) == []
    (tmp_path / "left").write_text("changed")
    assert foreign(tmp_path, ["left"]) == ["left"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"format": 1, "files": []}', json.dumps({"name": "a web app"}), "[" * 9999]
)
def test_a_manifest_of_somebody_else_or_damaged_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ConfigError, match=r"manifest\.json is not the list of what deepsup wrote"):
        write(tmp_path, "a", lambda file: file.write_text("a"))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(MANIFEST, text)]


def test_a_place_that_somebody_names_is_free_or_they_say_overwrite(tmp_path: Path) -> None:
    run, mine = tmp_path / "run", tmp_path / "mine.json"
    write_text(run, "maps/maps.json", "ours")
    (tmp_path / "link").symlink_to("nothing")
    mine.write_text("mine")
    ownership.refuse_taken(None, tmp_path / "free", tmp_path / "new/free")
    with pytest.raises(ConfigError, match="--overwrite"):
        ownership.refuse_taken(tmp_path / "free", mine)
    ownership.refuse_taken(mine, overwrite=True)
    (tmp_path / MANIFEST).write_text("somebody else's list")
    ownership.refuse_taken(mine, overwrite=True)
    for odd in (tmp_path / "link", run, Path(os.devnull)):
        with pytest.raises(ConfigError, match="no file that could be replaced"):
            ownership.refuse_taken(odd, overwrite=True)
    for ours in (run / MANIFEST, run / "maps/maps.json"):
        with pytest.raises(ConfigError, match="belongs to what deepsup keeps"):
            ownership.refuse_taken(ours, overwrite=True)
