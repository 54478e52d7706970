"""The command line called from a test, on a terminal that is wide enough."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner, Result

from deepsup.cli import app
from deepsup.cli.terminal import console


def call(*words: str) -> str:
    """What the command prints; an error of ours is raised."""
    result: Result = CliRunner().invoke(app.app, list(words), env={"COLUMNS": "140", "TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 140)
