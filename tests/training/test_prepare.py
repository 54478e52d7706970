"""What is made ready before a run trains: data, plan, placement."""

from __future__ import annotations

from pathlib import Path

import pytest

import deepsup as ds
from deepsup.errors import BranchNameError, ConfigError
from deepsup.training import predict, prepare
from deepsup.training.journal import read
from deepsup.training.runs import strip_run, train
from tests.support import tiny_runs
from tests.support.tiny_runs import config


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


def test_preparing_a_run_writes_nothing_and_shows_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    prepared = prepare.prepare(tiny_runs.config("run"))
    assert prepared.plan.names == ("relu1", "relu2")
    assert not any(tmp_path.iterdir())


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


@pytest.mark.parametrize("branches", [True, False])
def test_a_loss_on_features_is_trained_with_branches_and_without_and_leaves_the_plain_model(
    tmp_path: Path, branches: bool
) -> None:
    changes = {} if branches else {"supervise": None}
    settings = config(tmp_path / "run", embedding={"loss": "triplet", "weight": 0.5}, **changes)
    first = train(settings)
    plan = ds.Plan.load(tmp_path / "run" / "plan.json")
    sources = ["main/feature", *(["relu1/feature", "relu2/feature"] if branches else [])]
    assert [e.source for e in plan.edges] == sources
    steps = list(read(tmp_path / "run" / "journal.jsonl", "step"))
    assert all(set(sources) <= record["parts"].keys() for record in steps)
    assert (tmp_path / "run" / "certificate.json").exists()
    assert strip_run(tmp_path / "run", trust=True)[0] == tmp_path / "run" / "model.safetensors"
    predict.load(tmp_path / "run", trust=True)
    if not branches:
        with pytest.raises(ConfigError, match="has no branches"):
            predict.load(tmp_path / "run", branches=True, trust=True)
    again = train(settings)
    assert again.already_done
    assert first.folder == again.folder


def test_what_cannot_be_a_loss_on_features_is_found_by_its_key(tmp_path: Path) -> None:
    settings = config(tmp_path, embedding={"loss": {"relu3": "triplet"}})
    with pytest.raises(BranchNameError, match="embedding_loss= names the output 'relu3'"):
        prepare.prepare(settings)
    assert any("relu3" in str(finding) for finding in prepare.diagnose(settings)[""].findings)
    fine = prepare.diagnose(config(tmp_path, embedding={"loss": "triplet"}, supervise=None))[""]
    assert not [finding for finding in fine.findings if finding.severity == "error"]


def test_the_doctor_looks_at_images_of_identities(tmp_path: Path) -> None:
    figures = {"name": "drawn-figures(identities=80, cameras=2, images=2)", "size": [32, 32], "augment": "flips"}
    changes = {"model": "deepsup:plain-6", "model_options": {"widths": [4, 8]}, "data": figures, "supervise": None}
    found = prepare.diagnose(config(tmp_path, **changes, embedding={"loss": "triplet"}))[""]
    assert {"no-pairs", "mirrored-only"} <= set(found.codes)
    assert "no-pairs" not in prepare.diagnose(config(tmp_path, **changes))[""].codes
    square = {**figures, "name": "drawn-figures(identities=16, cameras=2, images=2)"}  # 8 to train on, 8 wide
    assert "class-sized-embedding" in prepare.diagnose(config(tmp_path, **{**changes, "data": square}))[""].codes
