"""Somebody else's files run no code: whatever they name, nothing is imported or called without the user's word.

Each file here would make a marker if it were believed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import deepsup as ds
from deepsup.errors import CheckpointError, ConfigError, DeepsupError, HeadError, TrustError
from deepsup.label_maps import write_picture
from deepsup.settings import training as settings
from deepsup.settings.section import read
from deepsup.training import predict, prepare, runs
from tests.support import hostile_runs as hostile
from tests.support import tiny_runs
from tests.support.command_line import call
from tests.support.command_line import wide as wide

ROOT = Path(__file__).parents[2]
EVIL = """
import pathlib
from torch import nn

pathlib.Path({marker!r}).touch()

class Net(nn.Module):
    def __init__(self, num_classes=2, **options):
        super().__init__()
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "MARKER"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write_picture(tmp_path / "image.png", np.zeros((16, 16, 3), np.uint8))
    return tmp_path / "image.png"


COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "predict": lambda run, image: ["predict", str(run), str(image)],
    "predict --branches": lambda run, image: ["predict", str(run), str(image), "--branches"],
    "strip": lambda run, image: ["strip", str(run)],
    "strip --verify": lambda run, image: ["strip", str(run), "--verify"],
    "doctor": lambda run, image: ["doctor", str(run / "config.yaml")],
    "train": lambda run, image: ["train", str(run / "config.yaml")],
    "train --dry-run": lambda run, image: ["train", str(run / "config.yaml"), "--dry-run"],
    "probe": lambda run, image: ["probe", str(run / "config.yaml")],
    "compare": lambda run, image: ["compare", str(run / "config.yaml")],
}


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("where", ["model", "head", "own module"])
def test_settings_of_somebody_elses_run_import_nothing(
    verb: str, where: str, tmp_path: Path, marker: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = hostile.copied("half", tmp_path / "run")
    if where == "model":
        hostile.settings(run, model="os:system", model_options=hostile.command(marker))
    elif where == "head":
        hostile.settings(run, supervise={"at": ["relu1"], "head": hostile.head(marker)})
    else:
        (tmp_path / "evilmod.py").write_text(EVIL.format(marker=str(marker)))
        monkeypatch.chdir(tmp_path)
        hostile.settings(run, model="evilmod:Net")
    if verb == "compare":
        told = read(run / "config.yaml")
        base = {key: value for key, value in told.items() if key not in ("name", "output", "seed")}
        arms = {"none": {"supervise": None}, "theirs": {"supervise": base.pop("supervise")}}
        (run / "config.yaml").write_text(json.dumps({"base": base, "arms": arms}))
    with pytest.raises(TrustError) as caught:
        call(*COMMANDS[verb](run, image))
    assert not marker.exists()
    assert str(run / "config.yaml") in str(caught.value)
    assert ("import the module evilmod" if where == "own module" else "import the module os") in str(caught.value)
    assert "evilmod" not in sys.modules


@pytest.mark.parametrize("verb", ["predict", "predict --branches", "strip", "train"])
def test_plans_of_somebody_elses_run_import_nothing(verb: str, tmp_path: Path, marker: Path, image: Path) -> None:
    run = hostile.copied("half", tmp_path / "run")
    hostile.poison_plan(run, hostile.head(marker))
    with pytest.raises(TrustError, match="would import the module os and call os:system"):
        call(*COMMANDS[verb](run, image))
    assert not marker.exists()


def test_a_plan_names_its_heads_only_with_the_readers_word(tmp_path: Path, marker: Path) -> None:
    run = hostile.copied("finished", tmp_path / "run")
    hostile.poison_plan(run, hostile.head(marker))
    with pytest.raises(TrustError, match=r"plan\.json asks for code"):
        ds.Plan.load(run / "plan.json")
    told = json.loads((run / "plan.json").read_text())
    with pytest.raises(TrustError, match="the plan asks for code"):
        ds.Plan.from_dict(told)
    for text in (
        f"shared({hostile.head(marker)})",
        "network(name='timm:resnet18', options={'checkpoint_path': 'x.pt'})",
    ):
        with pytest.raises(TrustError):
            ds.Plan.from_dict(hostile.with_head(told, text))
    trusted = ds.Plan.load(run / "plan.json", trust=True)
    with pytest.raises(HeadError, match="os is a module of Python itself"):  # and even then it makes no network
        ds.attach(runs.untouched_model(run), trusted)
    assert not marker.exists()


def test_python_refuses_what_makes_no_network_too(marker: Path, tmp_path: Path) -> None:
    config = settings.TrainConfig(model="os:system", model_options=hostile.command(marker), output=str(tmp_path / "r"))
    with pytest.raises(ConfigError, match="os is a module of Python itself"):
        runs.train(config)
    assert not marker.exists()


def test_with_the_users_word_the_module_is_imported(
    tmp_path: Path, marker: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = hostile.copied("finished", tmp_path / "run")
    (tmp_path / "evilmod.py").write_text(EVIL.format(marker=str(marker)))
    monkeypatch.chdir(tmp_path)
    hostile.settings(run, model="evilmod:Net")
    (run / "plan.json").unlink()
    with pytest.raises(TrustError):
        predict.load(run)
    with pytest.raises(CheckpointError, match="does not hold the weights of this Net"):
        predict.load(run, trust=True)
    assert marker.exists()
    sys.modules.pop("evilmod")
    marker.unlink()
    with pytest.raises(CheckpointError):
        call("predict", str(run), str(image), "--trust")
    assert marker.exists()
    sys.modules.pop("evilmod")


@pytest.mark.parametrize("verb", ["predict", "strip", "train"])
def test_a_checkpoint_with_code_in_it_is_not_unpickled(verb: str, tmp_path: Path, marker: Path, image: Path) -> None:
    run = hostile.copied("half", tmp_path / "run")
    hostile.poison_checkpoint(run, marker)
    with pytest.raises(CheckpointError, match="does not hold what this version"):
        call(*COMMANDS[verb](run, image))
    assert not marker.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "heads.safetensors"])
def test_weights_that_are_a_pickle_are_not_unpickled(file: str, tmp_path: Path, marker: Path, image: Path) -> None:
    run = hostile.copied("finished", tmp_path / "run")
    hostile.poison_weights(run / file, marker)
    with pytest.raises(CheckpointError, match="no safetensors file"):
        call("predict", str(run), str(image), "--branches")
    assert not marker.exists()


def test_public_weights_that_hold_code_are_not_unpickled(tmp_path: Path, marker: Path) -> None:
    hostile.poison_weights(tmp_path / "public.th", marker)
    words = ["model=deepsup:resnet-8", f"model_options.weights={tmp_path / 'public.th'}", "data.limit=64"]
    with pytest.raises(DeepsupError):
        call("train", *words, f"output={tmp_path / 'run'}")
    assert not marker.exists()


def test_yaml_makes_no_objects(tmp_path: Path, marker: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        call("train", str(tmp_path / "c.yaml"))
    with pytest.raises(ConfigError, match="cannot read the value"):
        call("train", f"name=!!python/object/apply:os.mkdir ['{marker}']")
    assert not marker.exists()


def test_a_report_reads_journals_and_runs_nothing(tmp_path: Path, marker: Path) -> None:
    run = hostile.copied("finished", tmp_path / "run")
    hostile.settings(run, model="os:system", model_options=hostile.command(marker), name="<script>alert(1)</script>")
    journal = (
        (run / "journal.jsonl").read_text().replace('"name":"kept"', '"name":"</script><script>alert(1)</script>"')
    )
    (run / "journal.jsonl").write_text(
        journal.replace('"name": "kept"', '"name": "</script><script>alert(1)</script>"')
    )
    hostile.poison_plan(run, hostile.head(marker))
    call("report", str(run))
    page = (run / "report.html").read_text()
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page
    assert not marker.exists()


@pytest.mark.parametrize("way", ["-m", "script"])
def test_nothing_in_the_current_folder_stands_in_for_a_package(way: str, tmp_path: Path, marker: Path) -> None:
    run = hostile.copied("finished", tmp_path / "run")
    for name in (
        "jinja2",
        "rich",
        "typer",
        "yaml",
        "plotly",
        "matplotlib",
        "pydantic",
        "datasets",
        "torchvision",
        "timm",
    ):
        (tmp_path / f"{name}.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nraise RuntimeError\n")
    code = "import sys; from deepsup.__main__ import main; sys.argv[0] = 'deepsup'; main()"
    start = ["-m", "deepsup"] if way == "-m" else ["-P", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, *start, "report", str(run)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not marker.exists()
    assert (run / "report.html").exists()


def test_opening_a_run_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = hostile.copied("finished", tmp_path / "run")
    (run / "plan.json").unlink()
    told = read(run / "config.yaml")
    hostile.settings(run, data={**told["data"], "name": "mnist", "download": True, "root": str(tmp_path / "there")})
    with pytest.raises(DeepsupError):
        runs.untouched_model(run)
    assert not (tmp_path / "there").exists()


def test_what_the_settings_name_is_trusted_in_the_plan_of_their_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    text = "network(name='tests.support.tiny_runs:dropout_net')"
    config = tiny_runs.config(tmp_path / "run", supervise={"at": {"peer": "input"}, "head": text})
    plan = prepare.prepare(config).plan.to_dict()
    assert prepare.prepare(config, plan=plan).plan.branches[0].head == text
    plain = tiny_runs.config(tmp_path / "run", model="deepsup:plain-4")
    with pytest.raises(TrustError, match=r"import the module tests\.support\.tiny_runs and call"):
        prepare.prepare(plain, plan=plan)
