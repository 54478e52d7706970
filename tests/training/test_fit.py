"""The loop, through `fit` and through `train`: what it records, what it refuses, and that it changes nothing else."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import deepsup as ds
from deepsup import datasets
from deepsup.errors import (
    CheckpointError,
    ClassCountError,
    ConfigError,
    DatasetError,
    MissingPackageError,
    NonFiniteError,
)
from deepsup.evaluation.evaluate import evaluate
from deepsup.training import checkpoints, prepare, runs
from deepsup.training.fit import fit
from deepsup.training.journal import Record, read
from deepsup.training.runs import train
from tests.support import tiny_runs
from tests.support.tiny_runs import config, dropout_net

CPU = {"accelerator": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return datasets.load("digits", limit=96)


def supervised(**options: Any) -> ds.Supervised:
    model = dropout_net(10, 1)
    plan = ds.plan(model, torch.randn(2, 1, 16, 16), at=["relu1", "relu2"], head="pool", **options)
    return ds.attach(model, plan)


def blobs(count: int = 64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(count) % 3
    x = torch.randn(count, 4, generator=generator) + 3 * F.one_hot(y, 4)
    return list(zip(x.split(16), y.split(16), strict=True))


def state_bytes(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def same_state(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# -- fit ---------------------------------------------------------------------------------------------------------------


def test_fit_trains_a_supervised_net_and_records_every_head(digits: datasets.Dataset, tmp_path: Path):
    net = supervised(weight="linear(0.4, 0)")
    log = {"every": 2, "gradients": 2}
    result = fit(
        net,
        digits.train,
        validation=digits.validation,
        epochs=2,
        optimizer="adam",
        lr=0.01,
        engine=CPU,
        log=log,
        folder=tmp_path,
    )
    records = read(tmp_path / "journal.jsonl")
    assert [r["kind"] for r in records if r["kind"] not in ("step", "conflict")] == [
        "start",
        "doctor",
        "cost",
        "gradients",
        "gradients",
        "epoch",
        "epoch",
        "end",
    ]
    steps = [r for r in records if r["kind"] == "step"]
    assert [r["step"] for r in steps] == [1, 2, 4, 6]
    assert [r["progress"] for r in steps] == pytest.approx([0, 1 / 6, 3 / 6, 5 / 6])
    assert steps[2]["weights"] == pytest.approx({"main": 1, "relu1": 0.2, "relu2": 0.2})
    for step in steps:
        total = sum(step["weights"][name] * part for name, part in step["parts"].items())
        assert step["total"] == pytest.approx(total, rel=1e-5)
    assert list(next(r for r in records if r["kind"] == "gradients")["layers"]) == ["conv1", "conv2", "fc"]
    last = records[-2]
    assert set(last["validation"]["loss"]) == {"main", "relu1", "relu2"}
    assert set(last["validation"]["score"]) == {"main", "relu1", "relu2", "ensemble"}
    assert last["train"]["parts"].keys() == {"main", "relu1", "relu2"}
    assert result.score == last["validation"]["score"]["main"] == records[-1]["score"]
    assert result.step == 6
    assert [r["epoch"] for r in result.history] == [1, 2]
    assert records[0]["plan"]["branches"][0]["name"] == "relu1"
    assert records[0]["cost"]["head_params"] > 0


def test_fit_learns_from_a_plain_list_of_batches_with_the_users_own_optimizer():
    net = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    result = fit(net, blobs(), validation=blobs(), epochs=5, optimizer=optimizer, schedule="linear(1, 0.5)", engine=CPU)
    assert result.score is not None
    assert result.score > 0.9
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * (1 - 0.5 * 19 / 20))
    assert result.journal is None
    assert evaluate(net, blobs()).score["main"] == pytest.approx(result.score)


def test_fit_is_the_same_as_the_loop_written_by_hand():
    torch.manual_seed(3)
    net, hand = nn.Linear(4, 3), nn.Linear(4, 3)
    hand.load_state_dict(net.state_dict())
    fit(net, blobs(), epochs=2, lr=0.1, engine=CPU)
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1, momentum=0.9)
    for x, y in blobs() * 2:
        optimizer.zero_grad()
        F.cross_entropy(hand(x), y).backward()
        optimizer.step()
    assert same_state(net.state_dict(), hand.state_dict())


def test_fit_leaves_no_trace_on_the_model_after_strip(digits: datasets.Dataset):
    model = dropout_net(10, 1)
    keys, text = list(model.state_dict()), repr(model)
    net = ds.attach(model, ds.plan(model, torch.randn(2, 1, 16, 16), at=["relu1"]))
    fit(net, digits.train, engine=CPU)
    assert ds.strip(net) is model
    assert (list(model.state_dict()), repr(model)) == (keys, text)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_function_of_the_epoch_is_a_source_and_a_used_up_iterator_is_not():
    seen = []

    def source(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        seen.append(epoch)
        return iter(blobs())

    fit(nn.Linear(4, 3), source, epochs=3, seed=None, engine=CPU)
    assert seen[-3:] == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"used up after one.*DataLoader"):
        fit(nn.Linear(4, 3), iter(blobs()), engine=CPU)
    with pytest.raises(ConfigError, match="cannot read batches from a int"):
        fit(nn.Linear(4, 3), 3, engine=CPU)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="found a tuple of length 3"):
        fit(nn.Linear(4, 3), [(1, 2, 3)], engine=CPU)  # type: ignore[list-item]
    with pytest.raises(DatasetError, match="yielded no batch in epoch 1"):
        fit(nn.Linear(4, 3), [], engine=CPU)


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match=r"no key 'device'\. Closest: devices"):
        fit(nn.Linear(4, 3), blobs(), engine={"device": 2})
    with pytest.raises(ConfigError, match="name cannot be 'lion'"):
        fit(nn.Linear(4, 3), blobs(), optimizer="lion", engine=CPU)


@pytest.mark.filterwarnings("ignore:the doctor found a trap.*class-count")
def test_labels_without_a_class_are_refused():
    with pytest.raises(ClassCountError, match=r"labels 0\.\.2"):
        fit(nn.Linear(4, 2), blobs(), engine=CPU)


class Interrupted(Exception):
    pass


def stop_at(step: int) -> Any:
    def see(record: Record) -> None:
        if record["kind"] == "step" and record["step"] == step:
            raise Interrupted

    return see


@pytest.mark.parametrize("step", [2, 5, 8, 11])
def test_a_shuffling_dataloader_goes_on_in_the_middle_of_an_epoch(tmp_path: Path, step: int):
    """Its order comes from the global random state, which dropout draws from, too."""
    x, y = (torch.cat(parts) for parts in zip(*blobs(), strict=True))

    def run(folder: Path, **options: Any) -> tuple[dict[str, Tensor], list[Any]]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
        log = {"every": 1, "gradients": 0}
        result = fit(net, loader, epochs=3, folder=folder, checkpoint_every=2, engine=CPU, log=log, **options)
        return state_bytes(net), [r["train"] for r in result.history]

    expected = run(tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", on_record=stop_at(step))
    state, history = run(tmp_path / "stopped")
    assert same_state(state, expected[0])
    assert history == expected[1]
    steps = [r["step"] for r in read(tmp_path / "stopped" / "journal.jsonl", "step")]
    assert steps == list(range(1, 13))


def test_a_folder_with_another_fit_is_refused(tmp_path: Path):
    fit(nn.Linear(4, 3), blobs(), epochs=1, folder=tmp_path, engine=CPU)
    before = (tmp_path / "checkpoint.ckpt").read_bytes()
    with pytest.raises(ConfigError, match="epochs was 1, now 2"):
        fit(nn.Linear(4, 3), blobs(), epochs=2, folder=tmp_path, engine=CPU)
    with pytest.raises(CheckpointError, match="does not fit this net"):
        fit(nn.Linear(4, 5), blobs(), epochs=1, folder=tmp_path, engine=CPU)
    assert (tmp_path / "checkpoint.ckpt").read_bytes() == before


def test_frozen_batch_normalisation_stays_frozen_through_validation(digits: datasets.Dataset):
    net = dropout_net(10, 1)
    net.train()
    net.get_submodule("norm1").eval()
    before = net.get_buffer("norm1.running_mean").clone()
    fit(net, digits.train, validation=digits.validation, epochs=2, engine=CPU)
    assert torch.equal(net.get_buffer("norm1.running_mean"), before)
    assert not net.get_submodule("norm1").training
    assert net.training


# -- what is not finite ------------------------------------------------------------------------------------------------


class InfiniteAt:
    """A loss that is infinite from its `call`-th call on."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.left -= 1
        return F.cross_entropy(prediction, target) * (math.inf if self.left < 0 else 1.0)


def test_an_infinite_branch_is_named_and_the_last_good_checkpoint_stays(digits: datasets.Dataset, tmp_path: Path):
    net = supervised(loss={"relu2": InfiniteAt(4)})
    with pytest.raises(NonFiniteError, match=r"at step 5, first in branch 'relu2'\. Lower"):
        fit(net, digits.train, epochs=3, folder=tmp_path, engine=CPU)
    last = read(tmp_path / "journal.jsonl")[-1]
    assert (last["kind"], last["step"]) == ("stop", 4)
    assert "relu2" in last["reason"]
    kept = checkpoints.load(tmp_path / "checkpoint.ckpt")
    assert kept.step == 3
    assert all(v.isfinite().all() for v in kept.net.values() if v.is_floating_point())


def test_weights_that_explode_in_the_last_step_of_an_epoch_never_reach_a_checkpoint(tmp_path: Path):
    net = nn.Linear(4, 3)
    schedule = ds.schedules.step(1, {7 / 8: math.inf})  # the last step of the second epoch of four
    with pytest.raises(NonFiniteError, match="weights became NaN or infinite by step 8: weight"):
        fit(net, blobs(), epochs=2, schedule=schedule, folder=tmp_path, engine=CPU)
    assert checkpoints.load(tmp_path / "checkpoint.ckpt").step == 4


def test_a_learning_rate_that_is_too_high_stops_a_run_and_keeps_its_folder_usable(tmp_path: Path):
    wild = config(tmp_path / "run", optimizer={"name": "sgd", "lr": 0.01, "schedule": "step(1, {0.6: 1e30})"})
    with pytest.raises(NonFiniteError, match=r"at step 1[0-9], first in "):
        train(wild)
    assert read(tmp_path / "run" / "journal.jsonl")[-1]["kind"] == "stop"
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert checkpoints.load(tmp_path / "run" / "checkpoint.ckpt").epoch == 1
    with pytest.raises(NonFiniteError):  # it goes on from there, and says the same again
        train(wild)
    kinds = [r["kind"] for r in read(tmp_path / "run" / "journal.jsonl")]
    assert kinds.count("stop") == kinds.count("resume") == 1


# -- train -------------------------------------------------------------------------------------------------------------


def test_train_leaves_plain_weights_a_proof_and_a_finished_journal(tmp_path: Path):
    settings = config(tmp_path / "run")
    result = train(settings, group="sgd", arm="aux")
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert files == {
        "config.yaml",
        "plan.json",
        "inputs.json",
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
    net = ds.attach(runs.untouched_model(tmp_path), plan)
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


@pytest.mark.parametrize(
    "changes",
    [
        {"supervise": {"method": "adaloss", "weight": None}},
        {"supervise": {"method": "dlb", "at": None, "head": None, "weight": None}, "data": {"overlap": True}},
    ],
    ids=["running means of losses", "the batch before"],
)
def test_a_method_that_remembers_goes_on_as_if_nothing_had_happened(tmp_path: Path, changes: dict[str, Any]):
    changes = changes | {"checkpoint": {"every_steps": 3}, "log": {"every": 2}}
    train(config(tmp_path / "whole", **changes))
    with pytest.raises(Interrupted):
        train(config(tmp_path / "half", **changes), on_record=stop_at(8))
    assert train(config(tmp_path / "half", **changes)).resumed
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "half")]
    assert weights[0] == weights[1]
    steps = [
        [{k: v for k, v in r.items() if k != "time"} for r in read(tmp_path / name / "journal.jsonl", "step")]
        for name in ("whole", "half")
    ]
    assert steps[0] == steps[1]


def test_memory_is_measured_on_a_batch_as_long_as_those_to_come(tmp_path: Path):
    train(config(tmp_path / "once", supervise=None, epochs=1))
    train(config(tmp_path / "twice", supervise=None, epochs=1, data={"overlap": True}))
    once, twice = (read(tmp_path / name / "journal.jsonl", "cost")[0] for name in ("once", "twice"))
    assert (once["samples"], twice["samples"]) == (16, 32)
    assert twice["saved_bytes"] == pytest.approx(2 * once["saved_bytes"], rel=0.01)


def test_every_output_that_predicts_is_scored_and_all_of_them_together(digits: datasets.Dataset):
    torch.manual_seed(0)
    model = dropout_net(10, 1)
    heads = {"seen": "pool", "known": "mean"}
    plan = ds.plan(
        model, torch.randn(2, 1, 16, 16), at={"seen": "relu1", "known": "relu2"}, head=heads, loss={"known": "none"}
    )
    mimic = ds.Edge("seen", "main", loss="kl(temperature=3)")
    net = ds.attach(model, dataclasses.replace(plan, edges=(mimic,)))
    found = evaluate(net, digits.validation, batch_size=64)
    assert set(found.score) == {"main", "seen", "ensemble"}
    assert set(found.loss) == {"main", "seen", "seen<-main"}
    images, labels = next(digits.validation.batches(len(digits.validation), seed=0, epoch=0, shuffle=False))
    with ds.supervising(net.eval()), torch.no_grad():
        outputs = net(images)
    mixed = (outputs.main.softmax(1) + outputs.aux["seen"].softmax(1)) / 2
    for name, scores in {"main": outputs.main, "seen": outputs.aux["seen"], "ensemble": mixed}.items():
        right = sum(int(row.argmax()) == int(y) for row, y in zip(scores, labels, strict=True))
        assert found.score[name] == pytest.approx(right / len(labels)), name


def test_an_ensemble_of_the_methods_own_is_not_replaced(digits: datasets.Dataset):
    torch.manual_seed(0)
    model = dropout_net(10, 1)
    plan = ds.plan(model, torch.randn(2, 1, 16, 16), at={"seen": "relu1"}, head="pool")
    net = ds.attach(model, dataclasses.replace(plan, edges=(ds.Edge("ensemble"),)))
    found = evaluate(net, digits.validation)
    images, labels = next(digits.validation.batches(len(digits.validation), seed=0, epoch=0, shuffle=False))
    with ds.supervising(net.eval()), torch.no_grad():
        outputs = net(images)
    own = (outputs.main + outputs.aux["seen"]) / 2  # of scores, as the objective mixes them
    assert found.score["ensemble"] == pytest.approx((own.argmax(1) == labels).float().mean().item())
    assert "ensemble" in found.loss


def test_the_journal_says_what_a_step_keeps(digits: datasets.Dataset, tmp_path: Path):
    plain, net = dropout_net(10, 1), supervised()
    for name, model in (("plain", plain), ("net", net)):
        fit(model, digits.train, epochs=1, batch_size=16, folder=tmp_path / name, engine=CPU)
    (alone,), (both,) = (read(tmp_path / name / "journal.jsonl", "cost") for name in ("plain", "net"))
    assert alone["samples"] == both["samples"] == 16
    assert 0 < alone["saved_bytes"] < both["saved_bytes"]
    assert read(tmp_path / "net" / "journal.jsonl", "end")[0]["peak_bytes"] is None


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
        ({"model": "tests.training.test_fit:seven_classes"}, ClassCountError),
    ],
)
def test_a_run_that_cannot_start_leaves_no_folder(tmp_path: Path, changes: dict[str, Any], error: type[Exception]):
    with pytest.raises(error):
        train(config(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def seven_classes(in_channels: int) -> nn.Module:
    return dropout_net(7, in_channels)


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "LOCK_SECONDS", 0.0)
    with runs.locked(tmp_path / "run", enabled=True):
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


def test_auto_places_branches_by_the_probe_and_says_so(tmp_path: Path):
    probe = {"iterations": 3, "rule": "drop", "factor": 1.5}
    changes = {"model": "deepsup:plain-6", "model_options": {"widths": [4, 8]}, "epochs": 1}
    train(config(tmp_path, supervise={"at": "auto", "head": "pool", "probe": probe}, **changes))
    (placement,) = read(tmp_path / "journal.jsonl", "placement")
    plan = ds.Plan.load(tmp_path / "plan.json")
    assert placement["layers"] == [b.layer for b in plan.branches]
    assert placement["rule"] == "drop"
    assert list(placement["gradients"]) == ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc"]


def test_auto_that_finds_nothing_shows_what_it_saw(tmp_path: Path):
    probe = {"iterations": 2, "rule": "threshold", "threshold": 1e-30}
    with pytest.raises(
        ConfigError, match=r"by the rule 'threshold' no gradient vanishes(.|\n)*conv1(.|\n)*Choose layers"
    ):
        train(config(tmp_path / "run", supervise={"at": "auto", "probe": probe}))


def test_bfloat16_trains_in_mixed_and_in_true_precision(tmp_path: Path):
    exact = train(config(tmp_path / "exact"))
    for precision in ("bf16-mixed", "bf16-true"):
        rough = train(config(tmp_path / precision, engine={"precision": precision}))
        assert rough.score is not None
        assert exact.score is not None
        assert abs(rough.score - exact.score) < 0.3
        steps = [read(tmp_path / n / "journal.jsonl", "step") for n in ("exact", precision)]
        assert steps[1][0]["total"] == pytest.approx(steps[0][0]["total"], rel=0.05)
        assert steps[1][0]["total"] != steps[0][0]["total"]


def test_preparing_a_run_writes_nothing_and_shows_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    prepared = prepare.prepare(tiny_runs.config("run"))
    assert prepared.plan.names == ("relu1", "relu2")
    assert not any(tmp_path.iterdir())


def test_a_run_is_stripped_again_finished_or_not(tmp_path: Path):
    train(config(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train(config(tmp_path / "half"), on_record=stop_at(16))
    for name in ("whole", "half"):
        weights, certificate = runs.strip_run(tmp_path / name)
        model = runs.untouched_model(tmp_path / name)
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
    weights, certificate = runs.strip_run(tmp_path / "plain")
    assert certificate is None
    ds.load_weights(runs.untouched_model(tmp_path / "plain"), weights)
    with pytest.raises(ConfigError, match="there is no run in"):
        runs.strip_run(tmp_path)


def test_measuring_probes_as_placement_does_and_writes_nothing(tmp_path: Path):
    small = {"model": "deepsup:plain-4", "model_options": {"widths": [4, 8]}}
    probe = {"iterations": 12, "factor": 1.2}
    settings = config(tmp_path / "run", supervise={"at": "auto", "head": "pool", "probe": probe}, **small)
    found = prepare.measure(settings)
    assert found.iterations == 12  # more than an epoch has batches
    prepared = prepare.prepare(settings)
    assert prepared.placement is not None
    assert prepared.placement["gradients"] == found.means()
    assert prepared.placement["reason"] == found.recommendation("drop", factor=1.2).reason
    assert ds.Probe.from_dict(prepared.placement["probe"]) == found
    assert not (tmp_path / "run").exists()


def test_measuring_with_branches_starts_from_the_same_weights_and_batches(tmp_path: Path):
    small = {"model": "deepsup:plain-4", "model_options": {"widths": [4, 8]}}
    settings = config(tmp_path / "run", supervise={"gradient": "warmup(0.5)", "head": "pool"}, **small)
    plain, supervised = prepare.measure(settings), prepare.measure(settings, at=["relu2"])
    assert (plain.branches, supervised.branches) == ((), ("relu2",))
    # the branch's gradient enters with factor 0 at the start, and changes nothing above itself ever
    assert supervised.rows[-1].weight.mean[0] == pytest.approx(plain.rows[-1].weight.mean[0], rel=1e-5)
    assert supervised.rows[0].weight.mean[0] == pytest.approx(plain.rows[0].weight.mean[0], rel=1e-5)
    assert prepare.measure(config(tmp_path / "run", supervise=None, **small), at=["relu2"]).means() != plain.means()


@pytest.mark.parametrize(
    ("module", "changes", "extra"),
    [
        ("tensorboard", {"log": {"tensorboard": True}}, r"deepsup\[tensorboard\]"),
        ("lightning_fabric", {}, r"deepsup\[train\]"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, changes: dict[str, Any], extra: str
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=extra):
        train(config(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_named(tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfigError, match=r"accelerator=cuda.*0 CUDA devices"):
        train(config(tmp_path / "run", engine={"accelerator": "cuda"}))


def supervised_net(weight: float = 0.3):
    torch.manual_seed(0)
    model = dropout_net(10, 1)
    return ds.attach(model, ds.plan(model, torch.randn(2, 1, 16, 16), at=["relu1"], head="pool", weight=weight))


def some_batches(epoch: int):
    generator = torch.Generator().manual_seed(epoch)
    yield torch.randn(8, 1, 16, 16, generator=generator), torch.randint(0, 10, (8,), generator=generator)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lr": 0.5}, "'lr': 0.5"),
        ({"validation": some_batches}, "validation was False, now True"),
        ({"weight": 0.9}, "0.9"),
    ],
)
def test_a_folder_is_only_gone_on_with_under_the_same_settings(change: dict, says: str, tmp_path: Path):
    ds.fit(supervised_net(), some_batches, epochs=1, lr=0.1, folder=tmp_path)
    weight = change.pop("weight", 0.3)
    with pytest.raises(ConfigError, match="holds a run with other settings") as caught:
        ds.fit(supervised_net(weight), some_batches, epochs=1, folder=tmp_path, **{"lr": 0.1, **change})
    assert says in str(caught.value)


def test_an_optimiser_made_before_attach_is_refused():
    torch.manual_seed(0)
    model = dropout_net(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    net = ds.attach(model, ds.plan(model, torch.randn(2, 1, 16, 16), at=["relu1"]))
    with pytest.raises(ConfigError, match=r"does not hold 2 parameters of the heads .* Make it after attach"):
        ds.fit(net, some_batches, optimizer=optimizer)


def test_a_result_prints_in_one_line(tmp_path: Path):
    result = ds.fit(supervised_net(), some_batches, validation=some_batches, epochs=1, folder=tmp_path)
    assert str(result).startswith("1 epoch, 1 step in ")
    assert "\n" not in str(result)


def test_the_journal_says_where_losses_fight(digits: datasets.Dataset, tmp_path: Path):
    net = supervised(weight=0.4, gradient={"relu1": "project", "relu2": "warmup(0.5)"})
    log = {"every": 2, "gradients": 0, "parameter_conflict": 3}
    fit(net, digits.train, epochs=2, engine=CPU, log=log, folder=tmp_path)
    records = read(tmp_path / "journal.jsonl", "conflict")
    assert [(r["step"], r["steps"]) for r in records] == [(1, 1), (2, 1), (4, 2), (6, 2)]
    assert sum(r["steps"] for r in records) == 6
    for record in records:
        for found in record["branches"].values():
            assert -1 <= found["cosine"] <= 1
            assert found["ratio"] > 0
        assert record["branches"]["relu1"]["kept"] >= 0.999  # what it takes away is projected out
    assert records[0]["branches"]["relu2"]["kept"] == pytest.approx(1)  # nothing enters the trunk at first
    sampled = [sample for r in records for sample in r.get("parameters", [])]
    assert [s["step"] for s in sampled] == [3, 6]
    assert all(-1 <= s[name]["cosine"] <= 1 for s in sampled for name in ("relu1", "relu2"))
    assert all(tap.slot is None for tap in net.taps.values())


def test_measuring_conflict_does_not_change_what_is_trained(digits: datasets.Dataset):
    weights = []
    for on in (True, False):
        torch.manual_seed(0)
        net = supervised(weight=0.4)
        fit(net, digits.train, epochs=1, engine=CPU, log={"conflict": on, "parameter_conflict": 2 * on})
        weights.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"lr": 0.1, "optimizer": "mine"}, "lr= is for an optimiser by name, and yours has its own rates"),
        ({"metric": "accuracy"}, "metric= is what validation is scored by, and there is none"),
        ({"checkpoint_every": 2}, "checkpoint_every= needs a place for checkpoints"),
    ],
)
def test_what_would_do_nothing_is_refused(asked: dict[str, Any], told: str):
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    net(blobs()[0][0])
    if asked.get("optimizer"):
        asked = asked | {"optimizer": torch.optim.SGD(net.parameters(), lr=0.1)}
    before = state_bytes(net)
    with pytest.raises(ConfigError, match=told):
        fit(net, blobs(), engine={"accelerator": "cpu"}, **asked)
    assert same_state(before, state_bytes(net))
