"""A run that is killed with SIGKILL at random moments and started again ends as one that was left in peace.

A small server process imports torch once and forks a child for every attempt, so that an attempt costs no import.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deepsup.training import checkpoints
from deepsup.training.journal import read
from tests.support.tiny_runs import settings

ROOT = Path(__file__).parents[2]

SERVER = """
import json, os, signal, sys, time
import lightning_fabric, sklearn.datasets
from deepsup.training import configs, runs
print("ready", flush=True)
for line in sys.stdin:
    settings, kill_after = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            runs.train(configs.parse(settings))
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Server:
    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert self.answer() == "ready"

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def train(self, data: dict[str, Any], *, kill_after: float | None = None) -> int:
        """The exit code of one attempt: 0 when it finished, -9 when it was killed."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([data, kill_after]) + "\n")
        self.process.stdin.flush()
        return int(self.answer())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.process.kill()
    server.process.communicate()


def outcome(folder: Path) -> dict[str, Any]:
    """Everything a run leaves behind but its times."""
    checkpoint = checkpoints.load(folder / "checkpoint.ckpt")
    return {
        "weights": (folder / "model.safetensors").read_bytes(),
        "net": checkpoint.net,
        "optimizer": checkpoint.optimizer,
        "rng": checkpoint.rng,
        "counters": (checkpoint.epoch, checkpoint.step, checkpoint.score, checkpoint.best_score),
        "certificate": json.loads((folder / "certificate.json").read_text())["outputs_sha256"],
        "journal": [
            {k: v for k, v in record.items() if k not in ("time", "seconds", "step_ms", "config", "environment")}
            for record in read(folder / "journal.jsonl")
            if record["kind"] != "resume"
        ],
    }


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "lr": 0.05, "nesterov": True}, {"name": "adamw", "lr": 0.01}])
def test_a_killed_run_ends_as_an_undisturbed_one(server: Server, tmp_path: Path, optimizer: dict[str, Any]):
    changes: dict[str, Any] = {
        "optimizer": {**optimizer, "weight_decay": 0.01, "schedule": "cosine(1, 0)"},
        "data": {"augment": "standard"},
        "epochs": 12,
        "checkpoint": {"every_steps": 3},
    }
    began = time.perf_counter()
    assert server.train(settings(tmp_path / "undisturbed", **changes)) == 0
    duration = time.perf_counter() - began
    expected = outcome(tmp_path / "undisturbed")
    moments = random.Random(optimizer["name"])
    killed, resumed = 0, 0
    for attempt in range(3):
        folder = tmp_path / f"killed{attempt}"
        delays = [moments.uniform(0.1, 0.8) * duration for _ in range(8)]
        for delay in [*delays, None]:
            code = server.train(settings(folder, **changes), kill_after=delay)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
        assert_same(outcome(folder), expected)
        steps = [r["step"] for r in read(folder / "journal.jsonl", "resume")]
        assert steps == sorted(steps)
        resumed += len(steps)
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    assert killed
    assert resumed


def test_the_branches_have_random_numbers_worth_keeping(server: Server, tmp_path: Path):
    """The test above would prove little if the heads drew nothing: other seeds must give other heads' losses."""
    runs = []
    for seed in (0, 1):
        assert server.train(settings(tmp_path / str(seed), seed=seed, epochs=1)) == 0
        runs.append(outcome(tmp_path / str(seed)))
    assert runs[0]["weights"] != runs[1]["weights"]
    assert int(runs[0]["net"]["_extra_state"]) > 0
