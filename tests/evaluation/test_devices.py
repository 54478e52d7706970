"""Devices, precision, and the package that brings them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deepsup.errors import ConfigError, MissingPackageError
from deepsup.evaluation.devices import moved
from deepsup.training.journal import read
from deepsup.training.runs import train
from tests.support.tiny_runs import config


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


def test_all_tensors_of_a_target_are_moved() -> None:
    y, there = torch.zeros(2), torch.device("meta")
    found = moved({"target": (y, y, 0.3), "mask": [y, None], "name": "text"}, there)
    assert [t.device.type for t in (*found["target"][:2], found["mask"][0])] == ["meta"] * 3
    assert (found["target"][2], found["mask"][1], found["name"]) == (0.3, None, "text")
    assert type(found["target"]) is tuple
