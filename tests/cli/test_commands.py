"""The command line: every verb, its help, its errors, on models and data that take seconds."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import deepsup as ds
from deepsup import networks, reports
from deepsup.cli import app, commands
from deepsup.errors import DeepsupError
from deepsup.gradients import RULES
from deepsup.heads import HEADS
from deepsup.probes import placement
from deepsup.reports.pictures import PICTURES
from deepsup.training.journal import read
from tests.support.command_line import call, wide  # noqa: F401  (the fixture widens the terminal)
from tests.support.tiny_runs import SUPERVISED, settings
from tests.support.warm_python import WarmPython

VERBS = [
    *("layers", "plan", "probe", "doctor", "train", "compare", "report", "predict", "export", "evaluate", "score"),
    *("strip", "methods"),
]
ROOT = Path(__file__).parents[2]
QUICK = ["model=deepsup:plain-6", "epochs=1", "data.limit=64", "engine.threads=1"]


def test_every_verb_is_there_with_help() -> None:
    assert [c.callback.__name__ for c in commands.commands.registered_commands if c.callback] == VERBS
    overview = call("--help")
    for verb in VERBS:
        assert verb in overview
        text = call(verb, "--help")
        assert "Usage:" in text
        assert len(text.split()) > 20, verb
    helped = {command: set(re.findall(r"\w+", call(command, "--help"))) for command in ("plan", "probe", "report")}
    assert {*HEADS, *RULES} <= helped["plan"]
    assert set(placement.RULES) <= helped["probe"]
    assert set(PICTURES) <= helped["report"]


def data_lines(run: Path) -> list[str]:
    """What a run's journal says of its data."""
    (start,) = read(run / "journal.jsonl", "start")
    lines: list[str] = start["data"]["lines"]
    assert lines[0].startswith("training: ")
    return lines


def test_train_strip_verify_and_report(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*QUICK, "supervise.at=[relu2]", f"output={run}"]
    text = call("train", *words)
    assert "finished, 1 epoch " in text
    for line in data_lines(run):
        assert text.count(line) == 1
        assert text.index(line) < text.index("epoch 1/")
    assert "finished already" in call("train", *words)
    text = call("strip", str(run), "--verify", "--out", str(tmp_path / "plain.safetensors"))
    assert "no hook left, outputs identical" in text
    model = networks.build("deepsup:plain-6", classes=10, in_channels=1)
    ds.load_weights(model, tmp_path / "plain.safetensors")
    call("report", str(run), "--out", str(tmp_path / "page.html"), "--picture", str(tmp_path / "picture.png"))
    assert 50_000 < (tmp_path / "page.html").stat().st_size < 1_500_000
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    call("report", str(run), "--picture", str(tmp_path / "scores.png"), "--of", "scores")
    expected = reports.picture("scores", run, tmp_path / "expected.png").read_bytes()
    assert (tmp_path / "scores.png").read_bytes() == expected != (tmp_path / "picture.png").read_bytes()
    with pytest.raises(DeepsupError, match=r"no picture of 'losses'\. Choose: gradients, scores, ablation\."):
        call("report", str(run), "--picture", str(tmp_path / "x.png"), "--of", "losses")


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    text = call("train", *QUICK, "supervise.at=[relu2]", f"output={tmp_path / 'run'}", "--dry-run")
    assert "1 branch by method 'aux'" in text
    assert "training: 64 images, 16x16, values 0 to 1; " in text
    assert "1 epoch of 2 batches of 32" in text
    text = call("compare", str(ROOT / "examples/digits-comparison.yaml"), f"output={tmp_path / 'run'}", "--dry-run")
    assert text.count("3 branches by method 'aux'") == 2
    assert list(tmp_path.iterdir()) == []


def test_what_else_differs_between_arms_is_said_by_the_doctor_and_a_dry_run(tmp_path: Path) -> None:
    config = tmp_path / "compare.yaml"
    config.write_text(
        "base: {model: 'deepsup:plain-6', data: {limit: 64}}\nmethods: {none: null, dsn: {at: [relu2]}}\n"
    )
    for words in (["doctor", str(config)], ["compare", str(config), "--dry-run"]):
        note = "note: The main output's loss differs between the arms (none: cross_entropy; dsn: squared_hinge)"
        assert call(*words).startswith(note)
        assert "note:" not in call(*words, "base.loss=squared_hinge", "base.optimizer.lr=0.02")


def test_compare_prints_table_verdict_and_certificates_and_writes_the_page(tmp_path: Path) -> None:
    config = tmp_path / "compare.yaml"
    config.write_text(
        "base: {model: 'deepsup:plain-6', epochs: 1, data: {limit: 64}}\n"
        "arms: {plain: {supervise: null}, branches: {supervise: {at: [relu2]}}}\nseeds: [0, 1]\n"
    )
    text = call("compare", str(config), f"output={tmp_path / 'run'}")
    assert "all: no evidence" in text or "all: helps" in text or "all: hurts" in text
    assert "strip: 2 of 2 supervised models identical to the plain model" in text
    result = json.loads((tmp_path / "run/compare.json").read_text())
    assert result["groups"][0]["verdicts"]["branches"]["n"] == 2
    assert (tmp_path / "run/report.html").exists()


def test_the_version_is_told() -> None:
    assert call("--version") == f"deepsup {ds.__version__}\n"


@pytest.mark.parametrize("verb", ["train", "compare", "probe"])
def test_a_verb_without_a_configuration_explains_itself(verb: str) -> None:
    assert "Usage:" in CliRunner().invoke(app.app, [verb]).output


def test_methods_are_listed_with_formula_and_source() -> None:
    text = " ".join(call("methods").split())  # long formulas are broken into lines
    for method in ds.methods.METHODS.values():
        for part in (method.name, method.formula, method.source):
            assert " ".join(part.split()) in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "torchvision:resnet18", "--at", "layr2"], "no layer matches 'layr2' in ResNet. Closest: layer2"),
        (["layers", "torchvision:resnet19"], "resnet18"),
        (["train", "optimiser.lr=1"], "Closest: optimizer"),
        (["train", "a.yaml", "b.yaml"], "one configuration file at a time"),
        (["train", "missing.yaml"], "no configuration file at missing.yaml"),
        (["compare", "model=deepsup:plain-6"], "describes one run"),
        (["report", "nowhere"], "nowhere"),
        (["strip", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_named_errors(words: list[str], message: str) -> None:
    with pytest.raises(DeepsupError) as caught:
        call(*words)
    assert message in str(caught.value)


def test_the_command_prints_an_error_without_a_traceback(warm: WarmPython, tmp_path: Path) -> None:
    command = ["-m", "deepsup", "plan", "deepsup:plain-12", "--at", "relu99", "--size", "16"]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        assert warm.start(command, stdout=out, stderr=err).wait() == 1
    assert (tmp_path / "out").read_text() == ""
    told = (tmp_path / "err").read_text()
    assert told.startswith("UnknownLayerError: no layer matches 'relu99' in Plain.")
    assert "Traceback" not in told


def test_a_missing_package_is_named_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    command = [sys.executable, "-m", "deepsup", "methods"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 1
    assert done.stderr == "the deepsup command needs the package 'typer': pip install \"deepsup[cli]\"\n"


def test_a_disk_that_cannot_be_written_is_one_line(warm: WarmPython, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan = ["plan", "deepsup:plain-12", "--at", "relu3", "--size", "16", "--save", str(tmp_path / "file" / "p.json")]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        assert warm.start(["-m", "deepsup", *plan], stdout=out, stderr=err).wait() == 1
    told = (tmp_path / "err").read_text()
    assert "Error: [Errno " in told.splitlines()[0]
    assert "Mend that, and start again." in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("command", "number"),
    [("train", signal.SIGINT), ("compare", signal.SIGINT), ("compare", signal.SIGHUP)],
)
def test_a_signal_says_in_one_line_that_the_same_command_goes_on(
    command: str, number: signal.Signals, tmp_path: Path
) -> None:
    tiny = {k: v for k, v in settings("", epochs=100_000).items() if k not in ("name", "output", "supervise")}
    arms = {"base": tiny, "arms": {"plain": {}, "aux": {"supervise": SUPERVISED}}, "baseline": "plain"}
    described = tmp_path / "c.yaml"
    described.write_text(json.dumps((tiny if command == "train" else arms) | {"output": str(tmp_path / "out")}))
    process = subprocess.Popen(
        [sys.executable, "-m", "deepsup", command, str(described), "--trust"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that all its processes get the signal, as from a terminal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background shell ignores it
    )
    assert process.stdout is not None
    said_of_data = ("training: ", "validation: ", "served with ", "With 3 seeds and 360 ")
    first = next(line for line in process.stdout if not line.startswith(said_of_data))
    assert "epoch 1/" in first
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=90)
    assert said == "stopped; the same command goes on\n"
    assert process.returncode == 128 + number


def test_a_scheduler_s_signal_says_so_too(warm: WarmPython, tmp_path: Path) -> None:
    described = tmp_path / "c.yaml"
    described.write_text(json.dumps(settings(tmp_path / "out", epochs=100_000)))
    with open(tmp_path / "said", "w+") as said:
        process = warm.start(["-m", "deepsup", "train", str(described), "--trust"], stdout=subprocess.PIPE, stderr=said)
        assert process.stdout is not None
        assert any("epoch 1/" in line for line in process.stdout), (tmp_path / "said").read_text()
        process.send(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert (tmp_path / "said").read_text() == "stopped; the same command goes on\n"
    process.stdout.close()
