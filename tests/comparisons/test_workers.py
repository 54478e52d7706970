"""The processes that train the runs of a comparison."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.tiny_runs import settings


def test_a_worker_ends_when_its_comparison_does(tmp_path: Path):
    worker = subprocess.Popen(
        [sys.executable, "-m", "deepsup.comparisons.workers", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    endless = settings(tmp_path / "run", epochs=100_000)
    task = {"run": "run", "group": None, "arm": None, "config": endless}
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(task) + "\n")
    worker.stdin.flush()
    assert json.loads(worker.stdout.readline())["record"]["kind"] == "start"
    worker.stdin.close()  # as the operating system does for a comparison that is killed
    worker.stdout.close()
    assert worker.wait(timeout=20) == 0
