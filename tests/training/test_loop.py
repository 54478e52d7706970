"""The loop: what it records, what it stops at, and that it changes nothing else."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import deepsup as ds
from deepsup import datasets
from deepsup.errors import ClassCountError, ConfigError, DatasetError, NonFiniteError
from deepsup.evaluation.evaluate import evaluate
from deepsup.tasks.task import metrics_of
from deepsup.training import checkpoints, run_folders
from deepsup.training.fit import fit
from deepsup.training.journal import read
from deepsup.training.runs import train
from tests.support.drawn_search import SearchSplit
from tests.support.tiny_runs import config, dropout_net
from tests.support.training_runs import (
    CPU,
    InfiniteAt,
    Interrupted,
    blobs,
    same_state,
    state_bytes,
    stop_at,
    supervised,
)


@pytest.mark.filterwarnings("ignore:the doctor found a trap.*class-count")
def test_labels_without_a_class_are_refused():
    with pytest.raises(ClassCountError, match=r"labels 0\.\.2"):
        fit(nn.Linear(4, 2), blobs(), engine=CPU)


def of_one_kind(kind: str, counts: int) -> list[Any]:
    """Four batches, of which those from `counts` on have labels or values that count."""
    x, nothing = torch.randn(6, 4), {"class": torch.full((6,), -100), "values": torch.full((6, 3), math.nan)}
    some = {"class": torch.randint(0, 3, (6,)), "values": torch.randn(6, 3)}
    if kind == "mask":
        return [(x, {"target": some["values"], "mask": torch.full((6, 3), i >= counts)}) for i in range(4)]
    return [(x, (some if i >= counts else nothing)[kind]) for i in range(4)]


@pytest.mark.parametrize("kind", ["class", "values", "mask"])
def test_a_first_epoch_without_anything_that_counts_is_refused(kind: str) -> None:
    loss = "cross_entropy" if kind == "class" else "mse"
    net = nn.Linear(4, 3)
    with pytest.raises(DatasetError, match=r"in the whole first epoch not one label or value of main counted"):
        fit(net, of_one_kind(kind, 4), engine=CPU, objective=ds.Objective(loss=loss), epochs=2)
    before = net.weight.detach().clone()
    fit(net, of_one_kind(kind, 3), engine=CPU, objective=ds.Objective(loss=loss), epochs=1)  # the last batch has some
    assert not torch.equal(net.weight, before)


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


def test_frozen_batch_normalisation_stays_frozen_through_validation(digits: datasets.Dataset):
    net = dropout_net(10, 1)
    net.train()
    net.get_submodule("norm1").eval()
    before = net.get_buffer("norm1.running_mean").clone()
    fit(net, digits.train, validation=digits.validation, epochs=2, engine=CPU)
    assert torch.equal(net.get_buffer("norm1.running_mean"), before)
    assert not net.get_submodule("norm1").training
    assert net.training


def test_an_infinite_branch_is_named_and_the_last_good_checkpoint_stays(digits: datasets.Dataset, tmp_path: Path):
    net = supervised(branch_loss={"relu2": InfiniteAt(4)})
    with pytest.raises(NonFiniteError, match=r"at step 5, first in branch 'relu2'\. Lower"):
        fit(net, digits.train, epochs=3, folder=tmp_path, engine=CPU)
    last = read(tmp_path / "journal.jsonl")[-1]
    assert (last["kind"], last["step"]) == ("stop", 4)
    assert "relu2" in last["reason"]
    kept = checkpoints.load(tmp_path / "checkpoint.ckpt")
    assert kept.step == 3
    assert all(v.isfinite().all() for v in kept.net.values() if v.is_floating_point())


def test_a_branch_that_is_over_may_be_infinite_and_the_journal_leaves_it_out(digits: datasets.Dataset, tmp_path: Path):
    net = supervised(branch_loss={"relu2": InfiniteAt(12)}, weight={"relu2": 0.0})
    fit(net, digits.train, epochs=2, folder=tmp_path, engine=CPU, validation=digits.validation, log={"every": 1})
    records = read(tmp_path / "journal.jsonl")
    parts = [r["parts"] for r in records if r["kind"] == "step"]
    assert "relu2" in parts[0]
    assert "relu2" not in parts[-1]
    assert "relu1" in parts[-1]
    assert "relu2" not in read(tmp_path / "journal.jsonl", "epoch")[-1]["validation"]["loss"]


def test_weights_that_explode_in_the_last_step_of_an_epoch_never_reach_a_checkpoint(tmp_path: Path):
    net = nn.Linear(4, 3)

    def schedule(progress: float) -> float:  # infinite in the last step of the second epoch of four
        return math.inf if progress >= 7 / 8 else 1.0

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
        model,
        torch.randn(2, 1, 16, 16),
        at={"seen": "relu1", "known": "relu2"},
        head=heads,
        branch_loss={"known": "none"},
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


def test_a_run_searches_every_few_epochs_and_at_the_end_and_is_judged_by_map(tmp_path: Path):
    split = SearchSplit()
    net = supervised_on(split)
    training = [(split.images[12:44], split.identities[12:44].clamp(0))]
    result = ds.fit(net, training, validation=split, epochs=5, validate_every=2, engine=CPU, folder=tmp_path)
    told = read(tmp_path / "journal.jsonl", "epoch")
    assert [r["validation"] is not None for r in told] == [False, True, False, True, True]
    last = told[-1]["validation"]
    assert list(last["score"]) == ["main", "1", "ensemble"]
    assert (last["loss"], last["queries"]) == ({}, 12)
    assert last["scores"]["main"]["mAP"] == last["score"]["main"] == result.score
    assert {*last["scores"]["1"]} == {*metrics_of("re-identification", 0)}
    assert read(tmp_path / "journal.jsonl", "start")[0]["metric"] == result.metric == "mAP"
    assert result.best_score == max(r["validation"]["score"]["main"] for r in told if r["validation"])
    assert evaluate(net, split).metrics["1"] == last["scores"]["1"]
    run = run_folders.runs(tmp_path)[0]
    assert [epoch.epoch for epoch in run.epochs if epoch.score] == [2, 4, 5]
    with pytest.raises(ConfigError, match="fit: validate_every must be a whole number of at least 1; found 0"):
        ds.fit(net, training, validation=split, validate_every=0)


def supervised_on(split: SearchSplit) -> ds.Supervised:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8))
    return ds.attach(model, ds.plan(model, split.images[:2], at={"1": "1"}, head="linear"))
