from __future__ import annotations

import io
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deepsup import files
from deepsup.errors import CheckpointError
from deepsup.files import write_atomically
from deepsup.training import checkpoints
from deepsup.training.checkpoints import Checkpoint


def make(net: nn.Module, **changes: object) -> Checkpoint:
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    fields = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 1,
        "batch": 2,
        "step": 3,
        "rng": [checkpoints.rng_state()],
        "epoch_rng": [{}],
        "sums": [{"names": [], "sums": [], "count": 0}],
        "journal": 10,
        "config": {"epochs": 2},
    }
    return Checkpoint(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    checkpoints.save(make(nn.Linear(3, 2)), tmp_path / "checkpoint.ckpt")
    return tmp_path / "checkpoint.ckpt"


def test_what_is_saved_is_loaded(tmp_path: Path):
    net = nn.Linear(3, 2)
    before = make(net, best_score=0.5, plan={"branches": [{"name": "layer1.0"}]})
    checkpoints.save(before, tmp_path / "c")
    after = checkpoints.load(tmp_path / "c")
    assert torch.equal(after.net["weight"], net.weight)
    assert after.optimizer["state"][0]["step"] == 1
    assert (after.epoch, after.batch, after.step, after.journal) == (1, 2, 3, 10)
    assert (after.best_score, after.plan, after.config) == (before.best_score, before.plan, before.config)
    assert after.library


def test_random_streams_go_on_where_they_were(path: Path):
    state = checkpoints.load(path).rng[0]

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.randn()), float(torch.rand(()))]

    checkpoints.set_rng_state(state)
    first = draw()
    draw()
    checkpoints.set_rng_state(state)
    assert draw() == first


@pytest.mark.parametrize("keep", [0, 4, 20, 51, 52, 200, -1])
def test_a_truncated_checkpoint_is_named_as_such(path: Path, keep: int):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"truncated.*(Remove|put an intact copy)"):
        checkpoints.load(path)


@pytest.mark.parametrize("place", [60, 300, -5])
def test_a_flipped_bit_is_found(path: Path, place: int):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="altered"):
        checkpoints.load(path)


def test_another_format_is_refused_with_both_versions(path: Path):
    data = bytearray(path.read_bytes())
    data[8] = 7
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"has format 7; this deepsup .* reads format 2"):
        checkpoints.load(path)


def test_a_foreign_file_is_refused_and_never_unpickled(path: Path, tmp_path: Path):
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "boom"),)

    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="not a deepsup checkpoint"):
        checkpoints.load(path)
    checkpoints.save(make(nn.Linear(3, 2), plan=Bomb()), path)
    with pytest.raises(CheckpointError, match="does not hold what this version"):
        checkpoints.load(path)
    assert not (tmp_path / "boom").exists()


def test_files_keep_the_keys_that_other_versions_read(path: Path):
    content = torch.load(io.BytesIO(path.read_bytes()[52:]), weights_only=True)
    assert {"feed_rng", "tallies"} < content.keys()
    assert not {"epoch_rng", "sums"} & content.keys()


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*nothing\.ckpt"):
        checkpoints.load(tmp_path / "nothing.ckpt")


def test_a_failed_write_leaves_the_old_one_and_no_leftovers(path: Path, monkeypatch: pytest.MonkeyPatch):
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(make(nn.Linear(3, 2)), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.ckpt"]


def test_what_a_kill_left_behind_is_removed_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # as killed before it tidied up
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path.parent / "maps" / "a.png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    monkeypatch.undo()
    for name in (".checkpoint.ckpt.bak", ".config.yaml.bak", ".a.deepsup-notes"):
        (path.parent / name).write_text("the user's")
    assert len(list(path.parent.rglob(".*.deepsup-*"))) == 3
    checkpoints.remove_leftovers(path.parent, path.parent / "maps")
    left = sorted(p.name for p in path.parent.iterdir())
    assert left == [".a.deepsup-notes", ".checkpoint.ckpt.bak", ".config.yaml.bak", "checkpoint.ckpt", "maps"]
    assert not any((path.parent / "maps").iterdir())


def interrupted(_: Path) -> None:
    raise KeyboardInterrupt
