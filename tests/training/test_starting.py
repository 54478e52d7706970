"""Weights that a run begins with."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from deepsup.errors import CheckpointError
from deepsup.training.fit import fit
from deepsup.training.journal import read
from deepsup.training.runs import train
from deepsup.training.starting import StartWarning, start_from
from tests.support.tiny_runs import config, dropout_net
from tests.support.training_runs import CPU, Interrupted, blobs, same_state, state_bytes, stop_at, supervised

FROZEN = {"optimizer": {"name": "sgd", "lr": 1e-30, "momentum": 0.0}, "epochs": 1, "data": {"limit": 16}}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    train(config(folder, epochs=1))
    return folder


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    """Those that training at no rate leaves as they are."""
    return {n: t for n, t in load_file(folder / name).items() if "running" not in n and "tracked" not in n}


def test_a_run_begins_with_model_and_heads_of_another_and_says_so(before: Path, tmp_path: Path) -> None:
    train(config(tmp_path, start=str(before), **FROZEN))
    for name in ("model.safetensors", "heads.safetensors"):
        assert same_state(weights(tmp_path, name), weights(before, name))
    (told,) = read(tmp_path / "journal.jsonl", "begun")
    assert (told["source"], told["left"], len(told["sha256"])) == (str(before), [], 64)
    assert told["taken"] == len(load_file(before / "model.safetensors")) + len(load_file(before / "heads.safetensors"))


def test_a_run_that_goes_on_needs_what_it_began_with_no_more(before: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    source.write_bytes((before / "model.safetensors").read_bytes())
    train(config(tmp_path / "whole", start=str(source)))
    with pytest.raises(Interrupted):
        train(config(tmp_path / "half", start=str(source)), on_record=stop_at(12))
    source.unlink()
    train(config(tmp_path / "half", start=str(source)))
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "half"))
    assert one == other


@pytest.mark.parametrize("kind", ["run", "checkpoint", "safetensors", "state dict", "supervised state dict", "nested"])
def test_every_kind_of_file_gives_the_same_weights(before: Path, tmp_path: Path, kind: str) -> None:
    source = before
    state = load_file(before / "model.safetensors")
    heads = load_file(before / "heads.safetensors")
    if kind == "checkpoint":
        source = before / "checkpoint.ckpt"
    elif kind == "safetensors":
        source = before / "model.safetensors"
    elif kind != "run":
        source = tmp_path / "state.pth"
        whole = {f"model.{n}": t for n, t in state.items()} | {f"heads.{n}": t for n, t in heads.items()}
        made = {"state dict": state, "nested": {"state_dict": state}}.get(
            kind, whole | {"_extra_state": torch.tensor(7)}
        )
        torch.save(made, source)
    net = supervised()
    initial = state_bytes(net.heads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StartWarning)  # of heads: these have another width
        start_from(net, source)
    assert same_state(state_bytes(net.model), state)
    assert same_state(state_bytes(net.heads), initial)
    plain = dropout_net(10, 1)
    start_from(plain, source)
    assert same_state(state_bytes(plain), state)


def test_what_does_not_fit_is_named_and_begins_as_initialised(before: Path) -> None:
    net = nn.Sequential()
    for name, layer in dropout_net(7, 1).named_children():
        net.add_module({"conv2": "other"}.get(name, name), layer)
    initial = state_bytes(net)
    with pytest.warns(StartWarning) as caught:
        begun = start_from(net, before / "model.safetensors")
    state = load_file(before / "model.safetensors")
    assert sorted(begun.left) == [
        "conv2.bias (not here)", "conv2.weight (not here)", "fc.bias ((10,) there, (7,) here)",
        "fc.weight ((10, 128) there, (7, 128) here)", "other.bias (not there)", "other.weight (not there)",
    ]  # fmt: skip
    assert "fc.weight ((10, 128) there, (7, 128) here)" in str(caught[0].message)
    after = state_bytes(net)
    for name, tensor in after.items():
        fits = name.startswith(("conv1", "norm1"))
        assert torch.equal(tensor, state[name] if fits else initial[name])
    assert begun.taken == sum(name.startswith(("conv1", "norm1")) for name in after)


def test_nothing_that_fits_is_an_error_and_nothing_is_run(before: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "boom"),)

    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"weight": Bomb()}, protocol=2))
    torch.save({"weight": Bomb()}, tmp_path / "zipped.pth")
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "empty").mkdir()
    for source, message in (
        (before, "holds nothing that fits this Linear"),
        (tmp_path / "bomb.pth", "no file of weights alone"),
        (tmp_path / "zipped.pth", "no file of weights alone"),
        (tmp_path / "pipe.safetensors", "there is no file"),
        (tmp_path / "nothing", "there is no file"),
        (tmp_path / "empty", "holds none of model.safetensors, checkpoint.ckpt"),
    ):
        with pytest.raises(CheckpointError, match=message):
            start_from(nn.Linear(4, 3), source)
    assert not (tmp_path / "boom").exists()


def test_fit_begins_with_weights_and_goes_on_with_its_own(tmp_path: Path) -> None:
    def run(name: str, start: Path | None, **options: object) -> nn.Module:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(4, 3))
        options = {"folder": tmp_path / name, "engine": CPU, "epochs": 2, "log": {"every": 1}} | options
        fit(net, blobs(), start=start, **options)  # type: ignore[arg-type]
        return net

    run("first", None, epochs=3)
    first = tmp_path / "first" / "checkpoint.ckpt"
    whole = run("whole", first)
    by_hand = nn.Sequential(nn.Linear(4, 3))
    start_from(by_hand, first)
    fit(by_hand, blobs(), epochs=2, engine=CPU)
    assert same_state(state_bytes(whole), state_bytes(by_hand))
    with pytest.raises(Interrupted):
        run("half", first, on_record=stop_at(6))
    assert same_state(state_bytes(run("half", first)), state_bytes(whole))
