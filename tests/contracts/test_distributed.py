"""Two processes, gloo: DistributedDataParallel with a branch at weight 0, and FSDP2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("way", ["ddp", "ddp-find-unused", "fsdp2"])
def test_two_processes_stay_in_step(way: str, tmp_path: Path) -> None:
    worker = ROOT / "tests" / "support" / "distributed_worker.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(worker), way]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}"}
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert result["same_on_both_ranks"]
        assert result["zero_gradients_at_weight_zero"]
        assert result["stripped_into_plain"]
        assert len(result["conflict"]) == 3
        assert all(-1 <= cosine <= 1 for cosine in result["conflict"])
        # The head at weight 0 gets zero gradients and stays; everything else trains.
        assert result["moved"] == result["parameters"] - 8, result
