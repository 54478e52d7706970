"""Files of weights that others publish: read without running anything, taken whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deepsup.errors import CheckpointError
from deepsup.networks.public_weights import read_tensors, take


class Harm:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {name: torch.rand_like(t.float()).to(t.dtype) for name, t in small().state_dict().items()}


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("key", ["", "state_dict", "model_state_dict", "model", "net"])
def test_wrappers_and_containers_fall_away(tmp_path: Path, wrapper: str, key: str) -> None:
    wrapped = {wrapper + name: tensor for name, tensor in state().items()}
    torch.save({key: wrapped, "best_prec1": 91.7, "epoch": 3} if key else wrapped, tmp_path / "a.th")
    model = small()
    take(model, read_tensors(tmp_path / "a.th", {}), "a.th", whose="this")
    assert all(torch.equal(t, state()[name]) for name, t in model.state_dict().items())


def test_safetensors_and_names_of_others(tmp_path: Path) -> None:
    save_file({name.replace("0.", "first.", 1): t for name, t in state().items()}, tmp_path / "a.safetensors")
    found = read_tensors(tmp_path / "a.safetensors", {r"^first\.": "0."})
    assert found.keys() == state().keys()
    save_file({"first.weight": torch.ones(1), "0.weight": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"holds '0\.weight' twice"):
        read_tensors(tmp_path / "b.safetensors", {r"^first\.": "0."})


@pytest.mark.parametrize("kind", ["missing", "code", "text", "list", "empty", "mixed", "cut", "cut safetensors"])
def test_nothing_but_tensors_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("a.safetensors" if kind.endswith("safetensors") else "a.th")
    content = {
        "code": {"state_dict": Harm()},
        "list": [torch.ones(2)],
        "empty": {},
        "mixed": {"a": torch.ones(1), "b": 2},
    }
    if kind in content:
        torch.save(content[kind], path)
    elif kind == "text":
        path.write_text("weights")
    elif kind != "missing":
        torch.save(state(), path) if kind == "cut" else save_file(state(), path)
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"no file .*to take|nothing else is read from it|holds no state dict"):
        read_tensors(path, {})
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1.bias": None}, r"of another network than this: it lacks 1\.bias\."),
        ({"2.bias": torch.ones(3)}, r"it has 2\.bias, which is not there"),
        ({"0.bias": torch.ones(4)}, r"it has 0\.bias of 4 where 3 is needed"),
        ({"0.weight": torch.ones(3, 2, 3, 3)}, r"it has 0\.weight of 3x2x3x3 where 3x2x1x1 is needed"),
    ],
)
def test_all_or_nothing(change: dict[str, Any], message: str) -> None:
    model = small()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    tensors = {name: t for name, t in {**state(), **change}.items() if t is not None}
    with pytest.raises(CheckpointError, match=message):
        take(model, tensors, "a.th", whose="this")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_older_files_lack_the_counters_of_batches() -> None:
    model = small()
    take(model, {name: t for name, t in state().items() if "tracked" not in name}, "a.th", whose="this")
    assert torch.equal(model.state_dict()["1.running_var"], state()["1.running_var"])
