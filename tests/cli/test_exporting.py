"""What `deepsup export` prints (what it writes is in the tests of `training/export.py`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepsup.errors import TrustError
from deepsup.training import runs
from tests.support.segmentation_runs import call
from tests.support.tiny_runs import config


def test_where_it_was_written_and_how_far_it_is_from_the_net(tmp_path: Path) -> None:
    runs.train(config(tmp_path / "run", epochs=1, data={"limit": 32}))
    file = tmp_path / "[early].pt2"
    words = ["export", str(tmp_path / "run"), "--format", "torch", "--exit", "relu1", "--output", str(file)]
    with pytest.raises(TrustError):
        call(*words)
    assert call(*words, "--trust").splitlines() == [
        f"written to {file}, what goes before and after it to {file}.json",
        "largest difference from the net: 0",
    ]
    told = json.loads((tmp_path / "[early].pt2.json").read_text())
    assert (told["output"], told["format"], told["input"]["shape"]) == ("relu1", "torch", ["N", 1, 16, 16])
