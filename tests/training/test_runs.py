"""A run that is killed with SIGKILL at random moments and started again ends as one that was left in peace.

Attempts are forked from a process that has imported torch, so that none costs an import.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import deepsup as ds
from deepsup import datasets
from deepsup.errors import CheckpointError, ClassCountError, ConfigError, DatasetError
from deepsup.evaluation.evaluate import evaluate
from deepsup.tasks import TASKS
from deepsup.training import checkpoints, locks, loggers, owned_folders, predict, run_folders, runs
from deepsup.training.journal import LostJournalWarning, read
from deepsup.training.runs import train
from tests.support.tiny_runs import config, dropout_net, settings
from tests.support.training_runs import Interrupted, stop_at
from tests.support.warm_python import WarmPython


def attempt(python: WarmPython, data: dict[str, Any], *, kill_after: float | None = None) -> int:
    """The exit code of one attempt: 0 when it finished, -9 when it was killed."""
    process = python.start(["-m", "tests.support.tiny_runs", json.dumps(data)])
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    return process.wait()


def outcome(folder: Path) -> dict[str, Any]:
    """Everything a run leaves behind but its times."""
    checkpoint = checkpoints.load(folder / "checkpoint.ckpt")
    return {
        "weights": (folder / "model.safetensors").read_bytes(),
        "net": checkpoint.net,
        "optimizer": checkpoint.optimizer,
        "rng": checkpoint.rng,
        "counters": (checkpoint.epoch, checkpoint.step, checkpoint.score, checkpoint.best_score),
        "certificate": json.loads((folder / "certificate.json").read_text())["outputs_sha256"],
        "journal": [
            {k: v for k, v in record.items() if k not in ("time", "seconds", "step_ms", "config", "environment")}
            for record in read(folder / "journal.jsonl")
            if record["kind"] != "resume"
        ],
    }


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


IDENTITIES = {
    "name": "drawn-figures(identities=20, cameras=2, images=3)", "size": [16, 16], "batch_size": 12, "per_identity": 3,
    "spread": True, "augment": "erasing(padding=2)",
}  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "data"),
    [
        ({"name": "sgd", "lr": 0.05, "nesterov": True}, {"augment": "standard"}),
        ({"name": "adamw", "lr": 0.01}, {"augment": "standard"}),
        ({"name": "adam", "lr": 0.01}, IDENTITIES),
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one(
    warm: WarmPython, tmp_path: Path, optimizer: dict[str, Any], data: dict[str, Any]
):
    changes: dict[str, Any] = {
        "optimizer": {**optimizer, "weight_decay": 0.01, "schedule": "cosine(1, 0)"},
        "data": data,
        "epochs": 12,
        "checkpoint": {"every_steps": 3},
    }
    began = time.perf_counter()
    assert attempt(warm, settings(tmp_path / "undisturbed", **changes)) == 0
    duration = time.perf_counter() - began
    expected = outcome(tmp_path / "undisturbed")
    moments = random.Random(optimizer["name"])
    killed, resumed = 0, 0
    for number in range(3):
        folder = tmp_path / f"killed{number}"
        delays = [moments.uniform(0.1, 0.8) * duration for _ in range(8)]
        for delay in [*delays, None]:
            code = attempt(warm, settings(folder, **changes), kill_after=delay)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
        assert_same(outcome(folder), expected)
        steps = [r["step"] for r in read(folder / "journal.jsonl", "resume")]
        assert steps == sorted(steps)
        resumed += len(steps)
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    assert killed
    assert resumed


def test_the_branches_have_random_numbers_worth_keeping(warm: WarmPython, tmp_path: Path):
    """The test above would prove little if the heads drew nothing: other seeds must give other heads' losses."""
    runs = []
    for seed in (0, 1):
        assert attempt(warm, settings(tmp_path / str(seed), seed=seed, epochs=1)) == 0
        runs.append(outcome(tmp_path / str(seed)))
    assert runs[0]["weights"] != runs[1]["weights"]
    assert int(runs[0]["net"]["_extra_state"]) > 0


def test_train_leaves_plain_weights_a_proof_and_a_finished_journal(tmp_path: Path):
    settings = config(tmp_path / "run")
    result = train(settings, group="sgd", arm="aux")
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert files == {
        "manifest.json",
        "config.yaml",
        "plan.json",
        "inputs.json",
        "answers.json",
        "journal.jsonl",
        "checkpoint.ckpt",
        "heads.safetensors",
        "model.safetensors",
        "certificate.json",
    }
    model = dropout_net(10, 1)
    ds.load_weights(model, tmp_path / "run" / "model.safetensors")
    assert ds.verify(tmp_path / "run" / "certificate.json", model)["identical"] is True
    start, *_, end = read(tmp_path / "run" / "journal.jsonl")
    assert (start["kind"], start["group"], start["arm"], start["seed"]) == ("start", "sgd", "aux", 0)
    assert start["config"] == settings.model_dump(mode="json")
    assert (end["kind"], end["epochs"], end["score"]) == ("end", 2, result.score)
    scores = evaluate(model, datasets.load("digits").validation)
    assert scores.score["main"] == pytest.approx(result.score)


def test_the_heads_of_a_finished_run_can_be_used_again(tmp_path: Path):
    train(config(tmp_path))
    (epoch,) = read(tmp_path / "journal.jsonl", "epoch")[-1:]
    plan = ds.Plan.load(tmp_path / "plan.json")
    net = ds.attach(runs.untouched_model(tmp_path, trust=True), plan)
    ds.load_weights(net.model, tmp_path / "model.safetensors")
    ds.load_weights(net.heads, tmp_path / "heads.safetensors")
    net.eval()
    data = datasets.load("digits").validation
    scores = evaluate(net, data)
    assert scores.score == pytest.approx(epoch["validation"]["score"])
    for name, use in {"relu1": ds.early_exit(net, "relu1"), "ensemble": ds.ensemble(net)}.items():
        assert evaluate(use, data).score["main"] == pytest.approx(scores.score[name])


def test_a_plain_run_has_no_heads(tmp_path: Path):
    train(config(tmp_path, supervise=None, epochs=1))
    assert not (tmp_path / "heads.safetensors").exists()


def test_a_finished_run_is_left_alone(tmp_path: Path):
    train(config(tmp_path))
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    again = train(config(tmp_path))
    assert again.already_done
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()} == before


def test_a_folder_with_another_configuration_is_refused_with_the_keys(tmp_path: Path):
    train(config(tmp_path))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"optimizer\.lr was 0\.01, now 0\.5; epochs was 2, now 3"):
        train(config(tmp_path, optimizer={"lr": 0.5}, epochs=3))
    (tmp_path / "config.yaml").write_text("epochs: [")
    with pytest.raises(ConfigError, match=r"config\.yaml is not valid YAML"):
        train(config(tmp_path))
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"holds a run without its config\.yaml"):
        train(config(tmp_path))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {k: v for k, v in before.items() if "yaml" not in k}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": "tests.support.tiny_runs:nothing"}, ConfigError),
        ({"data": {"name": "nothing"}}, DatasetError),
        ({"supervise": {"at": ["relu9"]}}, ds.errors.UnknownLayerError),
        ({"supervise": {"weight": {"relu9": 1}}}, ds.errors.BranchNameError),
        ({"supervise": {"head": "wobble"}}, ds.errors.HeadError),
        ({"model": "tests.support.training_runs:seven_classes"}, ClassCountError),
    ],
)
def test_a_run_that_cannot_start_leaves_no_folder(tmp_path: Path, changes: dict[str, Any], error: type[Exception]):
    with pytest.raises(error):
        train(config(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [f for f in owned_folders.FILES if f not in owned_folders.GROWING] + ["manifest.json"])
def test_a_folder_with_somebody_elses_file_of_a_runs_name_is_refused_and_left_alone(tmp_path: Path, name: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        train(config(tmp_path))
    assert [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()] == [b"mine"]


def test_a_users_own_settings_are_not_written_over(tmp_path: Path):
    written = json.dumps(settings(tmp_path)) + "  # mine"
    (tmp_path / "config.yaml").write_text(written)
    with pytest.raises(ConfigError, match=r"deepsup did not write.*: config\.yaml"):
        train(config(tmp_path))
    assert (tmp_path / "config.yaml").read_text() == written
    assert len(list(tmp_path.iterdir())) == 1


def test_what_was_put_into_a_run_under_way_is_not_written_over_and_costs_nothing(tmp_path: Path):
    def puts(record: dict[str, Any]) -> None:
        if record["kind"] == "epoch" and record["epoch"] == 2:
            (tmp_path / "model.safetensors").write_bytes(b"mine")

    with pytest.raises(ConfigError, match=r": model\.safetensors"):
        train(config(tmp_path), on_record=puts)
    with pytest.raises(ConfigError, match=r": model\.safetensors"):
        train(config(tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"
    (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere")
    assert train(config(tmp_path)).resumed
    assert runs.finished(tmp_path) is not None


def test_a_folder_of_the_users_stays_though_nothing_came_of_the_run(tmp_path: Path):
    with pytest.raises(DatasetError):
        train(config(tmp_path, data={"name": "nothing"}))
    assert tmp_path.is_dir()


def test_weights_whose_journal_and_checkpoint_are_lost_are_not_trained_over(tmp_path: Path):
    train(config(tmp_path, epochs=1))
    for name in ("journal.jsonl", "checkpoint.ckpt"):
        (tmp_path / name).unlink()
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"whose checkpoint\.ckpt is lost"):
        train(config(tmp_path, epochs=1))
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_journal_lost_on_the_way_or_at_the_end_loses_no_run(tmp_path: Path):
    train(config(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train(config(tmp_path / "half"), on_record=stop_at(12))
    train(config(tmp_path / "ended"))
    expected = (tmp_path / "whole" / "model.safetensors").read_bytes()
    for name in ("half", "ended"):
        (tmp_path / name / "journal.jsonl").unlink()
        with pytest.warns(LostJournalWarning, match="is lost"):
            assert train(config(tmp_path / name)).resumed
        assert train(config(tmp_path / name)).already_done
        assert (tmp_path / name / "model.safetensors").read_bytes() == expected
        kinds = [record["kind"] for record in read(tmp_path / name / "journal.jsonl")]
        assert (kinds[0], kinds[-1]) == ("start", "end")
        assert run_folders.run(tmp_path / name).end is not None


def test_strip_makes_good_what_is_gone_and_refuses_what_was_changed(tmp_path: Path):
    train(config(tmp_path))
    expected = {name: (tmp_path / name).read_bytes() for name in ("model.safetensors", "heads.safetensors")}
    for name in ("certificate.json", "model.safetensors"):
        (tmp_path / name).unlink()
        _, certificate = runs.strip_run(tmp_path, trust=True)
        assert certificate == tmp_path / "certificate.json"
        assert ds.verify(certificate, loaded(tmp_path))["outputs"] == "identical"
    assert expected == {name: (tmp_path / name).read_bytes() for name in expected}
    (tmp_path / "certificate.json").unlink()
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigError, match=r"changed since: model\.safetensors"):
        runs.strip_run(tmp_path, trust=True)
    assert not (tmp_path / "certificate.json").exists()


def loaded(run: Path) -> torch.nn.Module:
    model = runs.untouched_model(run, trust=True)
    ds.load_weights(model, run / "model.safetensors")
    return model


def test_a_picture_that_fails_is_a_warning_and_comes_after_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found: list[set[str]] = []

    def fails(self: object, folder: Path, *_: object, **__: object) -> None:
        found.append({p.name for p in folder.iterdir()})
        raise ZeroDivisionError("no picture")

    monkeypatch.setattr(type(TASKS["classification"]), "save", fails)
    with pytest.warns(loggers.LeftOutWarning, match="validation images failed .ZeroDivisionError: no picture"):
        result = train(config(tmp_path))
    assert {"model.safetensors", "certificate.json", "heads.safetensors"} <= found[0]
    assert result.score == read(tmp_path / "journal.jsonl", "end")[0]["score"]


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.0)
    with locks.locked(tmp_path / "run"):
        with pytest.raises(ConfigError, match="another process is at work in"):
            train(config(tmp_path / "run"))
        assert not any((tmp_path / "run").iterdir())
    train(config(tmp_path / "run", epochs=1))


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_checkpoint_stops_the_run_and_is_left_as_it_is(tmp_path: Path, damage: str):
    with pytest.raises(Interrupted):
        train(config(tmp_path), on_record=stop_at(12))
    data = bytearray((tmp_path / "checkpoint.ckpt").read_bytes())
    data[-100] ^= 4
    (tmp_path / "checkpoint.ckpt").write_bytes(data if damage == "flip" else data[:-100])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match="altered" if damage == "flip" else "truncated"):
        train(config(tmp_path))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_run_is_not_gone_on_with(tmp_path: Path):
    for name, seed in (("mine", 0), ("other", 1)):
        with pytest.raises(Interrupted):
            train(config(tmp_path / name, seed=seed), on_record=stop_at(12))
    shutil.copy(tmp_path / "other/checkpoint.ckpt", tmp_path / "mine/checkpoint.ckpt")
    for reads in (predict.load, runs.strip_run):
        with pytest.raises(CheckpointError, match=r"is of another run: seed was 1, now 0"):
            reads(tmp_path / "mine", trust=True)
    (tmp_path / "mine/journal.jsonl").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint\.ckpt is of another run: seed was 1, now 0"):
        train(config(tmp_path / "mine"))


def test_both_arms_start_alike_and_a_weight_of_zero_changes_nothing(tmp_path: Path):
    """The zero law, through the trainer: same weights, same batches, same dropout, bit for bit."""
    train(config(tmp_path / "plain", supervise=None))
    train(config(tmp_path / "zero", supervise={"weight": 0.0}))
    train(config(tmp_path / "aux"))
    weights = {p.name: (p / "model.safetensors").read_bytes() for p in tmp_path.iterdir()}
    assert weights["plain"] == weights["zero"]
    assert weights["plain"] != weights["aux"]
    first = {p.name: read(p / "journal.jsonl", "step")[0]["parts"]["main"] for p in tmp_path.iterdir()}
    assert len(set(first.values())) == 1


def test_a_run_is_stripped_again_finished_or_not(tmp_path: Path):
    train(config(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train(config(tmp_path / "half"), on_record=stop_at(16))
    for name in ("whole", "half"):
        weights, certificate = runs.strip_run(tmp_path / name, trust=True)
        model = runs.untouched_model(tmp_path / name, trust=True)
        ds.load_weights(model, weights)
        assert certificate is not None
        assert ds.verify(certificate, model)["outputs"] == "identical"
    finished = train(config(tmp_path / "half"))
    assert finished.resumed
    assert (tmp_path / "half" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_a_plain_run_has_nothing_to_strip_and_no_run_is_said_so(tmp_path: Path):
    train(config(tmp_path / "plain", supervise=None, epochs=1))
    weights, certificate = runs.strip_run(tmp_path / "plain", trust=True)
    assert certificate is None
    ds.load_weights(runs.untouched_model(tmp_path / "plain", trust=True), weights)
    with pytest.raises(ConfigError, match="there is no run in"):
        runs.strip_run(tmp_path)


def test_a_run_with_a_shared_head_is_resumed_and_its_files_hold_it_once(tmp_path: Path):
    supervise = {"method": "aux", "at": ["norm1", "relu1"], "head": "shared(pool)"}
    changes: dict[str, Any] = {"supervise": supervise, "checkpoint": {"every_steps": 3}}
    train(config(tmp_path / "whole", **changes))
    with pytest.raises(Interrupted):
        train(config(tmp_path / "cut", **changes), on_record=stop_at(8))
    assert train(config(tmp_path / "cut", **changes)).resumed
    for file in ("model.safetensors", "heads.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()
    net = predict.load(tmp_path / "cut", branches=True, trust=True).net
    assert net.heads["norm1"] is net.heads["relu1"]
    assert len(net.heads.state_dict()) == 2
