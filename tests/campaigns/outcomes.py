"""How a command that was met by a fault may end: with a named error or with its right answer, and with nothing touched."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from typer.testing import CliRunner

from deepsup.cli import app
from deepsup.errors import DeepsupError
from deepsup.training.journal import parse_lines

SECONDS = 300.0  # after which something hangs, on a busy machine too
VARYING = ("time", "seconds", "step_ms", "config", "environment", "peak_bytes", "saved_bytes")


class Hang(BaseException):
    """It did not end."""


class Outcome(NamedTuple):
    """`done`, `refused` (a named error, or a wrong command line), `crashed` or `hung`, and what was said."""

    how: str
    said: str

    @property
    def problem(self) -> str | None:
        return None if self.how in ("done", "refused") else f"{self.how}: {self.said[-600:]}"


class Campaign(NamedTuple):
    """Faults of one kind: `prepare` makes what all cases start from, `case` is one of them by its number."""

    name: str
    prepare: Callable[[Path], Any]
    case: Callable[[Any, int, Path], list[str]]  # what was wrong
    target: int  # of the long form
    short: int


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Raise `Hang` in what takes longer."""

    def late(*_: object) -> None:
        raise Hang(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome_of(call: Callable[[], Any]) -> Outcome:
    """Call something; errors of ours and of the disk are refusals."""
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Outcome("done", str(call()))
    except Hang:
        return Outcome("hung", traceback.format_exc())
    except (DeepsupError, OSError) as error:
        return (
            Outcome("refused", f"{type(error).__name__}: {error}")
            if str(error).strip()
            else Outcome("crashed", "no word")
        )
    except Exception:
        return Outcome("crashed", traceback.format_exc())


def command(*words: str) -> Outcome:
    """One call of the command line, in this process."""

    def call() -> str:
        result = CliRunner().invoke(app.app, list(words), env={"COLUMNS": "140", "TERM": "dumb"})
        if isinstance(result.exception, SystemExit) and result.exit_code:
            raise DeepsupError(f"exit status {result.exit_code}: {result.output}")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return outcome_of(call)


def snapshot(folder: Path) -> dict[str, str]:
    """What is in a folder, by name: kinds and hashes."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


def touched(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The names that differ."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def story(journal: Path) -> list[dict[str, Any]]:
    """What a journal tells that must not depend on how often a run was stopped."""
    records = [r for r in parse_lines(journal.read_bytes())[0] if r["kind"] not in ("resume", "doctor")]
    return [{k: json.dumps(v) for k, v in record.items() if k not in VARYING} for record in records]
