"""The doctor's look at a run before its first step: on the batch that will come, and without moving anything."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup import datasets
from deepsup.evaluation import devices
from deepsup.evaluation.loaders import SplitLoader, as_loader
from deepsup.settings.training import EngineConfig
from deepsup.training.journal import read
from deepsup.training.preflight import TrapWarning, first_batch, of_identities
from tests.support.tiny_identities import write_market

CPU = {"accelerator": "cpu", "threads": 1}


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 4, generator=generator), torch.arange(8) % 3) for _ in range(count)]


def net() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return ds.attach(model, ds.plan(model, batches()[0][0], at=["1"]))


def test_the_first_batch_is_the_one_that_training_begins_with_and_nothing_is_drawn() -> None:
    fabric = devices.start(EngineConfig(**CPU))
    split = datasets.load("digits", limit=64).train
    training = SplitLoader(split, 16, seed=3)
    before = torch.get_rng_state()
    found = first_batch(training, fabric)
    assert torch.equal(before, torch.get_rng_state())
    expected = next(training.epoch(0))
    assert found is not None
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert first_batch(as_loader([], 1), fabric) is None


def test_of_overlapping_batches_it_is_one_of_full_length() -> None:
    fabric = devices.start(EngineConfig(**CPU))
    training = SplitLoader(datasets.load("digits", limit=64).train, 16, overlap=True)
    found = first_batch(training, fabric)
    assert found is not None
    assert len(found[0]) == 32


def test_a_trap_is_warned_of_before_the_first_step_and_written_down(tmp_path: Path) -> None:
    trapped = net()
    with torch.no_grad():
        trapped.get_submodule("model.2").weight.fill_(float("nan"))
    with pytest.raises(ds.errors.NonFiniteError), pytest.warns(TrapWarning, match="the doctor found a trap") as warned:
        ds.fit(trapped, batches(), folder=tmp_path, engine=CPU)
    assert warned[0].filename == __file__  # where fit was called
    (record,) = read(tmp_path / "journal.jsonl", "doctor")
    assert [f["severity"] for f in record["findings"]].count("error") == len(warned)


def test_a_healthy_run_is_told_so_in_its_journal_alone(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds.fit(net(), batches(), folder=tmp_path, engine=CPU)
    (record,) = read(tmp_path / "journal.jsonl", "doctor")
    assert [f for f in record["findings"] if f["severity"] == "error"] == []


def of(name: str, **options: Any) -> list[str]:
    data = datasets.load(name, **options)
    found = of_identities(data, 16, compared=True, model=Small(), sample=torch.rand(4, 3, 64, 32))
    return [finding.code for finding in found]


def test_images_of_identities_are_looked_at(tmp_path: Path) -> None:
    assert of("drawn-figures(identities=8, cameras=2, images=2)", per_identity=4) == []
    assert of("drawn-figures(identities=80, cameras=2, images=2)", augment="flips") == ["no-pairs", "mirrored-only"]
    assert of("digits") == []
    gallery = ["0003_c2_1.jpg", "0002_c2_1.jpg"]
    write_market(tmp_path, query=["0003_c1_1.jpg", "0005_c1_1.jpg"], gallery=gallery)
    assert of("market1501", root=tmp_path, size=64, per_identity=4) == [
        "squared-images",
        "no-match",
        "shared-identities",
    ]


def test_training_begins_with_a_warning_where_nothing_is_compared() -> None:
    data = datasets.load("drawn-figures(identities=8, cameras=2, images=2)", per_identity=1)
    net = Small()
    plan = ds.plan(net, torch.rand(2, 3, 64, 32), method="none", embedding_loss="triplet")
    with pytest.warns(TrapWarning, match="one image of each identity"):
        ds.fit(ds.attach(net, plan), data.train, batch_size=4, engine=CPU)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))
