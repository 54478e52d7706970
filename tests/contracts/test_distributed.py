"""Two processes, gloo: DistributedDataParallel with a branch at weight 0 and with lent and shared heads, and FSDP2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.warm_python import WarmPython


@pytest.mark.parametrize("way", ["ddp", "ddp-find-unused", "fsdp2"])
def test_two_processes_stay_in_step(way: str, tmp_path: Path, warm: WarmPython) -> None:
    words = ["-m", "tests.support.distributed_worker", way, str(tmp_path)]
    with (tmp_path / "said").open("w") as said:
        both = [warm.start([*words, str(rank)], stdout=said, stderr=said) for rank in range(2)]
    assert [process.wait() for process in both] == [0, 0], (tmp_path / "said").read_text()[-3000:]
    for rank in range(2):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert result["same_on_both_ranks"]
        assert result["zero_gradients_at_weight_zero"]
        assert result["stripped_into_plain"]
        assert len(result["conflict"]) == 3
        assert all(-1 <= cosine <= 1 for cosine in result["conflict"])
        # The head at weight 0 gets zero gradients and stays; everything else trains.
        assert result["moved"] == result["parameters"] - 8, result


@pytest.mark.parametrize("way", ["usual", "find-unused"])
@pytest.mark.parametrize("weight", [0.3, 0.0])
@pytest.mark.parametrize("head", ["main", "shared", "borrowed"])
def test_lent_and_shared_heads_learn_in_two_processes_what_they_learn_in_one(
    head: str, weight: float, way: str, tmp_path: Path, warm: WarmPython
) -> None:
    words = ["-m", "tests.support.lending_worker", f"{head},{weight},{way}", str(tmp_path)]
    with (tmp_path / "said").open("w") as said:
        both = [warm.start([*words, str(rank)], stdout=said, stderr=said) for rank in range(2)]
    assert [process.wait() for process in both] == [0, 0], (tmp_path / "said").read_text()[-3000:]
    for rank in range(2):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert result["gradients"] < 1e-6, result
        assert result["weights"] < 1e-6, result
        assert result["missing"] == 0, result
