"""Whose folder it is: ours by its list, an earlier version's by its checkpoint or journal, else somebody's."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import deepsup as ds
from deepsup import ownership
from deepsup.errors import CheckpointError, ConfigError
from deepsup.training import locks, owned_folders, predict, runs
from tests.support.tiny_runs import config
from tests.support.training_runs import CPU, some_batches, supervised_net

KEPT = Path(__file__).parents[1] / "kept"


@pytest.mark.parametrize("name", ["half", "finished"])
def test_what_an_earlier_version_left_is_ours_as_it_was_left(tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(KEPT / name, tmp_path / "run"))
    owned_folders.check(run)
    assert not (run / ownership.MANIFEST).exists()
    owned_folders.note(run)
    owned_folders.check(run)
    (run / "plan.json").write_text("{}")
    with pytest.raises(ConfigError, match=r": plan\.json"):
        owned_folders.check(run)


@pytest.mark.parametrize("journal", [b"", b"notes\n", b"[1]\n", b'{"kind": "start"}\n', b"\xff\xfe\n"])
def test_a_journal_of_somebody_else_makes_no_run(tmp_path: Path, journal: bytes) -> None:
    (tmp_path / "journal.jsonl").write_bytes(journal)
    with pytest.raises(ConfigError, match=r": journal\.jsonl"):
        owned_folders.check(tmp_path)


@pytest.mark.parametrize("name", owned_folders.GROWING)
def test_fit_overwrites_nothing_of_somebody_else(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=name):
        ds.fit(supervised_net(), some_batches, folder=tmp_path, engine=CPU)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "mine")]


LEFT = ("plan.json", "heads.safetensors", "certificate.json", "manifest.json")


@pytest.mark.parametrize("supervise", [None, {"at": ["relu1"]}])
@pytest.mark.parametrize("kept", ["manifest.json", "checkpoint.ckpt", "journal.jsonl"])
def test_what_is_left_of_a_run_tells_whether_it_had_branches(tmp_path: Path, supervise: Any, kept: str) -> None:
    settings = config(tmp_path, supervise=supervise, epochs=1)
    runs.train(settings)
    assert owned_folders.had_branches(tmp_path, settings) is (supervise is not None)
    for name in {*LEFT, *owned_folders.GROWING} - {kept}:
        (tmp_path / name).unlink(missing_ok=True)
    assert owned_folders.had_branches(tmp_path, settings) is (supervise is not None)
    (tmp_path / kept).unlink()
    if supervise is not None:
        with pytest.raises(CheckpointError, match="does not tell whether its run had branches"):
            owned_folders.had_branches(tmp_path, settings)


@pytest.mark.parametrize("name", ["inputs.json", "plan.json", "model.safetensors", "heads.safetensors"])
def test_nothing_is_predicted_with_a_file_that_was_altered(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    runs.train(config(run, epochs=1, model="deepsup:plain-4"))
    data = bytearray((run / name).read_bytes())
    data[-3] ^= 1
    (run / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name} is not as deepsup wrote it"):
        predict.load(run, branches=True)
    owned_folders.refuse_altered(run, {*predict.READ} - {name})
    (run / ownership.MANIFEST).unlink()
    owned_folders.refuse_altered(run, predict.READ)


def test_fit_sweeps_up_what_a_kill_left_of_its_own(tmp_path: Path) -> None:
    ds.fit(supervised_net(), some_batches, folder=tmp_path, engine=CPU)
    leftover = tmp_path / ".checkpoint.ckpt.deepsup-0123456789ab"
    leftover.touch()
    ds.fit(supervised_net(), some_batches, folder=tmp_path, engine=CPU)
    assert not leftover.exists()


@pytest.mark.parametrize(
    "name", ["heads.safetensors", "plan.json", "manifest.json", "checkpoint.ckpt", "inputs.json", "config.yaml"]
)
def test_a_pipe_in_the_place_of_a_file_is_named_at_once(tmp_path: Path, name: str) -> None:
    settings = config(tmp_path / "run", epochs=1, model="deepsup:plain-4")
    runs.train(settings)
    (tmp_path / "run" / name).unlink()
    os.mkfifo(tmp_path / "run" / name)
    with pytest.raises(ConfigError, match=f"{name}, which is no file"):
        predict.load(tmp_path / "run")
    with pytest.raises(ConfigError, match=f"{name}, which is no file"):
        runs.train(settings)


def test_one_process_at_a_time_fits_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.0)
    with locks.locked(tmp_path / "run"):
        with pytest.raises(ConfigError, match="another process is at work in"):
            ds.fit(supervised_net(), some_batches, folder=tmp_path / "run", engine=CPU)
        assert not any((tmp_path / "run").iterdir())
    assert not (tmp_path / "run").exists()
    ds.fit(supervised_net(), some_batches, folder=tmp_path / "run", engine=CPU)


def test_a_disk_without_locks_is_trusted_and_a_folder_that_went_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", fails)
    with locks.locked(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "moved")
    assert [p.name for p in tmp_path.iterdir()] == ["moved"]


def test_a_run_whose_folder_is_moved_ends_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    there, moved = tmp_path / "run", tmp_path / "moved"

    def move(record: dict[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == 12:
            there.rename(moved)

    whole = runs.train(config(tmp_path / "whole", log={"every": 1}))
    with pytest.raises(CheckpointError, match="moved, replaced or removed"):
        runs.train(config(there, log={"every": 1}), on_record=move)
    assert not there.exists()
    moved.rename(there)
    assert runs.train(config(there, log={"every": 1})).score == whole.score
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run"))
    assert one == other
