"""Options that several commands take, and that those which name a file replace nothing unless they are told to."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from typer.models import OptionInfo
from typer.testing import CliRunner

from deepsup.cli import app, commands
from deepsup.errors import ConfigError
from deepsup.label_maps import write_picture
from tests.support.command_line import call, wide  # noqa: F401  (the fixture widens the terminal)

READ = {("predict", "gallery")}
FOLDERS = {("predict", "out")}
SETTINGS = ["model=deepsup:plain-4", "data.name=digits", "data.limit=32", "data.batch_size=16", "supervise.at=[relu1]"]
WRITTEN = {
    ("export", "output"): ["RUN"],
    ("plan", "save"): ["deepsup:plain-4", "--at", "relu1", "--size", "8", "--channels", "1", "--classes", "10"],
    ("probe", "save"): [*SETTINGS, "supervise.probe.iterations=1"],
    ("probe", "picture"): [*SETTINGS, "supervise.probe.iterations=1"],
    ("report", "out"): ["RUN"],
    ("report", "picture"): ["RUN"],
    ("strip", "out"): ["RUN"],
}


@pytest.mark.parametrize(
    ("option", "verbs"),
    [
        ("--trust", ("probe", "doctor", "train", "compare", "predict", "strip")),
        ("--overwrite", ("plan", "probe", "report", "strip")),
        ("--dry-run", ("train", "compare")),
        ("--channels", ("layers", "plan", "doctor")),
    ],
)
def test_commands_that_share_an_option_say_the_same_of_it(option: str, verbs: tuple[str, ...]) -> None:
    said = {" ".join(call(verb, "--help").partition(option)[2].partition("--")[0].split()) for verb in verbs}
    assert len({words[:40] for words in said}) == 1
    assert "" not in said


def taking(wanted: type) -> set[tuple[str, str]]:
    """Every option of every command that takes something of a type."""
    found = set()
    for command in commands.commands.registered_commands:
        assert command.callback
        hints = get_type_hints(command.callback, include_extras=True)
        for name in inspect.signature(command.callback).parameters:
            kind, *told = get_args(hints[name])
            if isinstance(told[0], OptionInfo) and wanted in (kind, *get_args(kind)):
                found.add((command.callback.__name__, name))
    return found


def test_every_option_that_takes_a_path_is_tried_here() -> None:
    assert taking(Path) == READ | FOLDERS | WRITTEN.keys()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options") / "run"
    call("train", *SETTINGS, "epochs=1", "engine.threads=1", f"output={folder}", "log.gradients=1")
    return folder


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "1.5", "x", "", "true", "9" * 30])
def test_a_number_has_a_range(value: str) -> None:
    for command, option in taking(int) | taking(float):
        flag = "--" + option.replace("_", "-")
        said = CliRunner().invoke(app.app, [command, "x", "y", flag, value], env={"COLUMNS": "140", "TERM": "dumb"})
        assert said.exit_code == 2, (command, flag, said.output)
        assert f"Invalid value for '{flag}'" in said.output, (command, flag, said.output)


def test_what_the_terminal_cannot_show_is_shown_otherwise() -> None:
    code = "import sys; sys.argv = ['deepsup', 'layers', 'deepsup:\\udcff\\u20ac']; from deepsup.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"\\udcff\\u20ac" in done.stderr


def named(run: Path, command: str, option: str, file: Path) -> list[str]:
    words = [str(run) if word == "RUN" else word for word in WRITTEN[command, option]]
    elsewhere = ["--out", str(file.with_name("page.html"))] if (command, option) == ("report", "picture") else []
    return [command, *words, *elsewhere, f"--{option}", str(file)]


@pytest.mark.parametrize(("command", "option"), WRITTEN)
def test_a_file_that_is_there_stays_until_you_say_overwrite(
    run: Path, command: str, option: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.html"
    words = named(run, command, option, file)
    file.write_text("mine")
    with pytest.raises(ConfigError, match=r"mine\.html is there already"):
        call(*words)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("mine.html", "mine")]
    call(*words, "--overwrite")
    assert b"mine" not in file.read_bytes()[:4]
    before = {p: p.read_bytes() for p in run.iterdir()}
    for ours in ("journal.jsonl", "manifest.json"):
        with pytest.raises(ConfigError, match="belongs to what deepsup keeps"):
            call(*named(run, command, option, run / ours), "--overwrite")
    assert {p: p.read_bytes() for p in run.iterdir()} == before


def test_predictions_replace_nothing_of_somebody_else(run: Path, tmp_path: Path) -> None:
    write_picture(tmp_path / "image.png", (np.arange(192) % 256).astype(np.uint8).reshape(8, 8, 3))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.csv").write_text("mine")
    with pytest.raises(ConfigError, match="did not write"):
        call("predict", str(run), str(tmp_path / "image.png"), "--out", str(tmp_path / "out"))
    assert [(p.name, p.read_text()) for p in (tmp_path / "out").iterdir()] == [("predictions.csv", "mine")]
