"""Plans, checkpoints, heads, journals and comparisons that an earlier version wrote are read as they were meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import deepsup as ds
from deepsup import reports
from deepsup.settings import configs
from deepsup.settings import training as settings
from deepsup.training import runs
from deepsup.training.journal import read

KEPT = Path(__file__).parents[1] / "kept"
PLANS = sorted((KEPT / "plans").glob("*.json"))
RESULTS = sorted((KEPT.parents[1] / "benchmarks" / "results").glob("*/compare.json"))


@pytest.mark.parametrize("file", PLANS, ids=[p.stem for p in PLANS])
def test_a_plan_of_before_prints_as_it_did_and_is_written_as_it_was(file: Path, tmp_path: Path) -> None:
    plan = ds.Plan.load(file)
    assert str(plan) + "\n" == file.with_suffix(".txt").read_text()
    plan.save(tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert all(branch.pop("optional") is False for branch in again["branches"])  # a key that has come since
    assert again.pop("forwards") == 1  # another one
    assert again == json.loads(file.read_text())


def test_there_is_a_plan_of_every_method_that_places_itself() -> None:
    need_layers = {"aux", "cnds", "cnds-released", "equal-compute"}
    later = {"hed-released", "unetpp-released"}  # than the plans that are kept
    assert {p.stem for p in PLANS} == set(ds.methods.METHODS) - need_layers - later


def test_a_run_of_before_goes_on_from_its_checkpoint_and_ends_as_it_ended_then(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(KEPT / "half", folder)
    config = configs.load(folder / "config.yaml", [f"output={folder}"])
    assert isinstance(config, settings.TrainConfig)
    runs.train(config)
    for name in ("model.safetensors", "heads.safetensors"):
        now, then = load_file(folder / name), load_file(KEPT / "finished" / name)
        assert now.keys() == then.keys()
        assert all(torch.allclose(now[key], then[key], rtol=1e-4, atol=1e-6) for key in then)
    scored, kept = (read(where / "journal.jsonl", "epoch") for where in (folder, KEPT / "finished"))
    assert [e["validation"]["score"] for e in scored] == [e["validation"]["score"] for e in kept]


def test_a_finished_run_of_before_gives_its_net_back_and_its_certificate_holds() -> None:
    model = runs.untouched_model(KEPT / "finished")
    net = ds.attach(model, ds.Plan.load(KEPT / "finished" / "plan.json")).eval()
    ds.load_weights(net.model, KEPT / "finished" / "model.safetensors")
    ds.load_weights(net.heads, KEPT / "finished" / "heads.safetensors")
    images = torch.rand(2, 1, 16, 16)
    assert ds.early_exit(net, "relu1")(images).shape == ds.ensemble(net)(images).shape == (2, 10)
    plain = runs.untouched_model(KEPT / "finished")
    ds.load_weights(plain, KEPT / "finished" / "model.safetensors")
    certificate = ds.verify(KEPT / "finished" / "certificate.json", plain)
    assert certificate["outputs"] in ("identical", "equal within 0.0001")  # as another processor rounds


@pytest.mark.parametrize("file", RESULTS, ids=[p.parent.name for p in RESULTS])
def test_a_comparison_of_before_is_shown_with_every_arm(file: Path, tmp_path: Path) -> None:
    shutil.copytree(file.parent, tmp_path / file.parent.name)
    reports.write_html(tmp_path / file.parent.name, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for group in json.loads(file.read_text())["groups"]:
        assert all(arm in page for arm in group["arms"])
