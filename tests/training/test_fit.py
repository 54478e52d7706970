"""The loop, through `fit` and through `train`: what it records, what it refuses, and that it changes nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import datasets
from deepsup.errors import CheckpointError, ConfigError, DatasetError
from deepsup.evaluation.evaluate import evaluate
from deepsup.training.fit import fit
from deepsup.training.journal import read
from tests.support.tiny_runs import dropout_net
from tests.support.training_runs import CPU, blobs, same_state, some_batches, state_bytes, supervised, supervised_net


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


@pytest.mark.parametrize("optimizer", [{}, None, 3, torch.optim.SGD])
def test_an_optimizer_is_a_name_or_one(optimizer: Any):
    with pytest.raises(ConfigError, match="optimizer= is a name or a"):
        fit(nn.Linear(4, 3), blobs(), optimizer=optimizer, engine=CPU)


def test_a_folder_with_another_fit_is_refused(tmp_path: Path):
    fit(nn.Linear(4, 3), blobs(), epochs=1, folder=tmp_path, engine=CPU)
    before = (tmp_path / "checkpoint.ckpt").read_bytes()
    with pytest.raises(ConfigError, match="epochs was 1, now 2"):
        fit(nn.Linear(4, 3), blobs(), epochs=2, folder=tmp_path, engine=CPU)
    with pytest.raises(CheckpointError, match="does not fit this net"):
        fit(nn.Linear(4, 5), blobs(), epochs=1, folder=tmp_path, engine=CPU)
    assert (tmp_path / "checkpoint.ckpt").read_bytes() == before


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


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"lr": 0.1, "optimizer": "mine"}, "lr= is for an optimiser by name, and yours has its own rates"),
        ({"metric": "accuracy"}, "metric= is what validation is scored by, and there is none"),
        ({"checkpoint_every": 2}, "checkpoint_every= needs a place for checkpoints"),
        ({"batch_size": 3}, "batch_size= is for splits of deepsup.datasets"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1; found 0"),
        ({"epochs": -1}, "epochs must be a whole number of at least 1; found -1"),
        ({"epochs": True}, "epochs must be a whole number of at least 1; found True"),
        ({"epochs": 1.5}, "epochs must be a whole number of at least 1; found 1.5"),
        ({"epochs": None}, "epochs must be a whole number of at least 1; found None"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1; found 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a whole number of at least 1; found 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0; found -1"),
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


@pytest.mark.parametrize(
    ("task", "metric", "target"),
    [
        ("values", "R²", torch.randn(12, 3)),
        ("values", "R²", {"target": torch.randn(12, 3), "mask": torch.rand(12, 3) < 0.7}),
        ("values", "RMSE", torch.randn(12, 3) + 5),
        ("labels", "mAP", (torch.rand(12, 3) < 0.5).float()),
        ("tokens", "token accuracy", torch.randint(0, 3, (12, 5))),
        ("tokens", "token accuracy", (torch.randint(0, 3, (12, 5)), torch.randint(0, 3, (12, 5)), 0.3)),
    ],
)
def test_fit_scores_every_task_by_its_metric_and_keeps_its_best(task: str, metric: str, target: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(12, 5, 4) if task == "tokens" else torch.randn(12, 4)
    net = ds.attach(model, ds.plan(model, x, at=["1"], task=task))
    asked = {"metric": "RMSE"} if metric == "RMSE" else {}
    result = fit(net, [(x, target)], validation=[(x, target)], epochs=4, lr=0.1, engine=CPU, **asked)
    scores = [record["validation"]["score"]["main"] for record in result.history]
    assert result.metric == metric
    assert result.best_score == (min(scores) if metric == "RMSE" else max(scores))
    if metric == "RMSE":
        assert scores[-1] < scores[0]
        assert f"RMSE {scores[-1]:.4g}, best {min(scores):.4g};" in str(result)  # in the unit of the values


def test_dlb_trains_as_released_whatever_batches_come_from(tmp_path: Path) -> None:
    """Meta-knowledge-Lab/DLB, dlb.py, by hand: the batch before comes back, in a forward of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(4, 5))
    theirs = copy.deepcopy(model).train()
    batches = [(torch.randn(6, 3, 8, 8), torch.randint(0, 5, (6,))) for _ in range(4)]
    plan = ds.plan(model, batches[0][0][:2], method="dlb")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    ds.fit(model, batches, objective=ds.Objective(plan), optimizer=optimizer, engine=CPU, folder=tmp_path / "run")
    optimizer, before = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9), None
    for x, y in batches:
        out = theirs(x)
        loss = F.cross_entropy(out, y)
        if before is not None:
            again = theirs(before[0])
            loss = F.cross_entropy(torch.cat([again, out]), torch.cat([before[1], y]))
            soft = (before[2].detach() / 3).softmax(1)
            loss = loss + 9 * F.kl_div((again / 3).log_softmax(1), soft, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before = (x, y, out)
    for (name, ours), other in zip(model.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.allclose(ours.double(), other.double(), rtol=1e-4, atol=1e-6), name


def test_a_split_overlaps_where_the_method_needs_it(digits: datasets.Dataset) -> None:
    model = dropout_net(10, 1)
    x, _ = next(iter(digits.train.batches(2, seed=0, epoch=0, shuffle=False)))
    objective = ds.Objective(ds.plan(model, x, method="dlb"))
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    ds.fit(model, digits.train, objective=objective, batch_size=16, engine=CPU)
    assert seen[-10:] == [16] * 10  # 6 batches of 96: the last five in two halves each
