"""Plain weights on disk: strict both ways, old or new but never half."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

import deepsup as ds
from deepsup import files
from deepsup.errors import CheckpointError
from deepsup.files import state_sha256, write_atomically
from tests.support.odd_nets import Tied
from tests.support.small_nets import CLASSES, Plain, Residual, images
from tests.support.states import assert_untouched, snapshot


def state(model: nn.Module) -> dict[str, Any]:
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    "build",
    [Plain, Residual, Tied, lambda: Residual().bfloat16(), lambda: Residual().to(memory_format=torch.channels_last)],
    ids=["plain", "buffers", "tied", "half", "channels last"],
)
def test_weights_come_back_bit_for_bit(build: Any, tmp_path: Path) -> None:
    one, other = build(), build()
    ds.save_weights(one, tmp_path / "model.safetensors")
    ds.load_weights(other, tmp_path / "model.safetensors")
    assert_untouched(state(one), state(other))
    assert state_sha256(one) == state_sha256(other)
    if isinstance(other, Tied):
        assert other.fc.weight is other.embed.weight


def test_a_supervised_model_is_saved_with_its_heads_and_its_random_stream(tmp_path: Path) -> None:
    def build() -> ds.Supervised:
        model = Plain().train()
        return ds.attach(model, ds.plan(model, images(), ["conv1"]))

    one, other = build(), build()
    one(images())
    ds.save_weights(one, tmp_path / "net.safetensors")
    ds.load_weights(other, tmp_path / "net.safetensors")
    assert_untouched(state(one), state(other))
    assert other.calls == 1


class Wide(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        (Wide(), Plain()),
        (Plain(), Wide()),
        (Plain(CLASSES + 1), Plain()),
        (Residual(), Plain()),
        (nn.Sequential(Plain()), Plain()),
    ],
    ids=["too many keys", "too few keys", "another shape", "another model", "a prefix"],
)
def test_weights_of_another_model_are_refused_and_nothing_changes(
    saved: nn.Module, loaded: nn.Module, tmp_path: Path
) -> None:
    ds.save_weights(saved, tmp_path / "model.safetensors")
    before = snapshot(loaded)
    with pytest.raises(CheckpointError) as caught:
        ds.load_weights(loaded, tmp_path / "model.safetensors")
    assert f"model.safetensors does not hold the weights of this {type(loaded).__name__}: " in str(caught.value)
    assert str(caught.value).endswith("Build the model as it was when the file was written.")
    assert_untouched(before, snapshot(loaded))


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "folder"])
def test_a_damaged_file_is_refused_and_nothing_changes(damage: str, tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", Plain()
    ds.save_weights(Plain(), path)
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "truncated": content[:-100], "text": b"not weights"}[damage])
    before = snapshot(model)
    says = dict.fromkeys(("missing", "folder"), "there is no file .*model")
    with pytest.raises(
        CheckpointError, match=says.get(damage, r"model\.safetensors is cut off or no safetensors file")
    ):
        ds.load_weights(model, path)
    assert_untouched(before, snapshot(model))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    write_atomically(path, lambda p: p.write_text("old"))
    assert path.read_text() == "old"

    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        temporary.with_name(".tmpZJsdgM").write_text("of a library that writes beside it")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fails)
    assert path.read_text() == "old"
    write_atomically(path, lambda p: p.write_text("new"))
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_who_has_the_old_file_open_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda p: p.write_text("old"))
    with path.open() as reader:
        write_atomically(path, lambda p: p.write_text("new"))
        assert (reader.read(), path.read_text()) == ("old", "new")


def test_saving_that_fails_leaves_the_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = tmp_path / "model.safetensors", Plain()
    ds.save_weights(model, path)
    before = path.read_bytes()

    def dies(model: nn.Module, name: str) -> None:
        Path(name).write_bytes(before[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "save_model", dies)
    with pytest.raises(KeyboardInterrupt):
        ds.save_weights(Plain(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_disk_that_is_full_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: nn.Module, name: str) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_model", fails)
    with pytest.raises(OSError, match=r"model\.safetensors cannot be written: I/O error: No space left"):
        ds.save_weights(Plain(), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    write_atomically(tmp_path / "ours", lambda p: p.write_text(""))
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "ordinary").st_mode


def test_the_hash_of_a_state_sees_every_bit_and_nothing_else() -> None:
    model = Residual()
    first = state_sha256(model)
    assert len(first) == 64
    model.train().requires_grad_(False)
    assert state_sha256(model.to(memory_format=torch.channels_last)) == first
    with torch.no_grad():
        model.bn1.running_mean[0] += 1e-7
    moved = state_sha256(model)
    assert moved != first
    model.bn1.running_mean.zero_()
    assert state_sha256(model) == first
    assert state_sha256(model.double()) not in (first, moved)


def test_the_hash_tells_keys_and_shapes_apart() -> None:
    def holding(**buffers: Tensor) -> nn.Module:
        module = nn.Module()
        for name, value in buffers.items():
            module.register_buffer(name, value)
        return module

    zeros = [
        holding(a=torch.zeros(2, 3)),
        holding(a=torch.zeros(3, 2)),
        holding(a=torch.zeros(6)),
        holding(b=torch.zeros(6)),
        holding(a=torch.zeros(6, dtype=torch.int32)),
        holding(a=torch.zeros(0)),
        holding(a=torch.zeros(2), b=torch.zeros(4)),
        holding(),
    ]
    assert len({state_sha256(m) for m in zeros}) == len(zeros)


def test_weights_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights")
    with pytest.raises(CheckpointError, match="there is no file"):
        ds.load_weights(nn.Linear(1, 1), tmp_path / "weights")
