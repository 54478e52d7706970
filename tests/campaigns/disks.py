"""A disk that is full at some byte: one line and nothing half-written, and with room again what an undisturbed run leaves.

RLIMIT_FSIZE stands in for the disk: no file of the process can grow beyond it, as on a full one, and no root is needed. A write
that fails now and then, wherever it happens, is a wrapped os.fsync and os.replace.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tests.campaigns.outcomes import Campaign, command, snapshot, story
from tests.campaigns.started_runs import Started, of_a_run, train_all, write_settings


@contextmanager
def full(number: int, draw: random.Random) -> Iterator[str]:
    """A disk without room: for files above some size, or from some call on."""
    if number % 2:
        size = draw.choice([0, 100, 1_000, 5_000, 20_000, 100_000, 200_000, 400_000])
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield f"no file above {size} bytes"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        return
    name, left = draw.choice(["fsync", "replace", "open"]), draw.randrange(25)
    real, calls = getattr(os, name), 0

    def fails(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        writes = name != "open" or given[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if calls > left and writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*given, **named)

    with mock.patch.object(os, name, fails):
        yield f"os.{name} fails after {left} calls"


class Disks(NamedTuple):
    """What to start from, and how often a run could not go on."""

    started: Started
    counts: Counter[str]


def prepare(place: Path) -> Disks:
    return Disks(train_all(place / "started"), Counter())


def case(state: Disks, number: int, place: Path) -> list[str]:
    """A run, or a resumed one, on a full disk; then with room again."""
    started, counts = state
    draw, run = random.Random(f"disks {number}"), place / "RUN"
    shutil.rmtree(run, ignore_errors=True)
    if draw.random() < 0.5:
        shutil.copytree(started.place / "half", run)
    write_settings(place / "asked.yaml", of_a_run(run, checkpoint={"every_steps": 3}))
    words = ["train", str(place / "asked.yaml")]
    with full(number, draw) as how:
        first = command(*words)
    counts[first.how] += 1
    wrong = [first.problem] if first.problem else []
    wrong += [f"left {name}" for name in snapshot(run) if ".deepsup-" in name] if run.exists() else []
    if found := _again(words, run, started):
        wrong += found
    return [f"{how}: {one}" for one in wrong]


def _again(words: list[str], run: Path, started: Started) -> list[str]:
    again = command(*words)
    if again.how != "done":
        return [f"with room again it is {again.how}: {again.said[-500:]}"]
    wrong = [] if (run / "model.safetensors").read_bytes() == started.weights else ["other weights"]
    return wrong + ([] if story(run / "journal.jsonl") == started.story else ["another journal"])


CAMPAIGN = Campaign("full disks", prepare, case, target=200, short=10)
