"""Every example runs as it says, or at least can be read."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from deepsup.settings import configs, training
from deepsup.settings.comparison import ComparisonConfig
from deepsup.training import prepare
from tests.support.tiny_images import write_pets
from tests.support.tiny_layouts import blocks, write_pairs

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
RUN_FILES = sorted(EXAMPLES.glob("*.yaml"))
LAST_LINES = {
    "huggingface.py": "the plain model, read again, says the same: True",
    "lightning_callback.py": "logged: train/layer2, train/main",
    "monai_trainer.py": "terms: loss/main, loss/upcat_2, loss/upcat_3",
    "own_head.py": "the same outputs from the saved weights: True",
    "own_loop.py": "the same object: True; outputs identical; hooks left: 0",
}


@pytest.mark.filterwarnings(r"ignore:.*LeafSpec:FutureWarning")  # Lightning's
@pytest.mark.parametrize("script", SCRIPTS[1:], ids=lambda path: path.name)
def test_a_script_runs_to_its_end(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")  # every warning is an error here
    assert capsys.readouterr().out.splitlines()[-1] == LAST_LINES[script.name]
    assert not any(tmp_path.iterdir())


def test_a_script_runs_in_an_interpreter_of_its_own(tmp_path: Path):
    script = SCRIPTS[0]
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == LAST_LINES[script.name]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("file", RUN_FILES, ids=lambda path: path.name)
def test_a_run_file_is_read_and_says_what_to_type(file: Path):
    config = configs.load(file)
    command = "compare" if isinstance(config, ComparisonConfig) else "train"
    text = file.read_text("utf-8")
    assert f"\n#   deepsup {command} examples/{file.name}" in text
    assert re.search(r"^# .*Expected", text, flags=re.M)
    assert re.search(r"^# .*[Tt]ime", text, flags=re.M)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_says_what_to_type(script: Path):
    assert f"\n    python examples/{script.name}\n" in script.read_text("utf-8")


def test_the_folder_run_can_be_set_up(tmp_path: Path):
    changes = [f"data.root={write_pets(tmp_path)}", "data.size=64", "data.workers=0", "model_options.weights=null"]
    config = configs.load(EXAMPLES / "folder.yaml", changes)
    assert isinstance(config, training.TrainConfig)
    prepared = prepare.prepare(config)
    assert prepared.plan.names == ("layer2", "layer3")
    assert prepared.data.class_names == ("cat", "dog")


def test_the_run_on_pairs_can_be_set_up(tmp_path: Path):
    root = write_pairs(tmp_path, mask=lambda n: blocks(n, shape=(64, 64)), classes="sky\nroad\ntree")
    config = configs.load(EXAMPLES / "pairs.yaml", [f"data.root={root}", "model_options.widths=[4, 8, 8, 8, 8]"])
    assert isinstance(config, training.TrainConfig)
    assert {found.severity for found in prepare.diagnose(config)[""].findings} <= {"warning"}
    prepared = prepare.prepare(config)
    assert prepared.plan.method.startswith("nnunet")
    assert prepared.data.class_names == ("sky", "road", "tree")
    text = (EXAMPLES / "pairs.yaml").read_text("utf-8")
    assert re.findall(r"^#   deepsup (\w+) ", text, flags=re.M) == ["doctor", "train", "predict"]
    assert config.output == "runs/pairs"
