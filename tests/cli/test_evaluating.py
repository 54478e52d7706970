"""What `deepsup evaluate` prints (what it counts is in the tests of `training/labelled_data.py`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepsup.errors import ConfigError, TrustError
from deepsup.training import runs
from tests.support.segmentation_runs import call
from tests.support.tiny_runs import config
from tests.support.tiny_tables import draw


def test_scores_in_words_and_as_json(tmp_path: Path) -> None:
    runs.train(config(tmp_path / "run", epochs=1, data={"limit": 32}))
    for number in range(4):
        draw(tmp_path / "new" / str(number % 2) / f"{number}.png", red=number / 4)
    words = ["evaluate", str(tmp_path / "run"), str(tmp_path / "new")]
    with pytest.raises(TrustError):
        call(*words)
    told = json.loads(call(*words, "--trust", "--branches", "--json"))
    assert set(told) == {"task", "metric", "samples", "score", "metrics", "loss"}
    assert set(told["score"]) == {"main", "relu1", "relu2", "ensemble"}
    lines = call(*words, "--trust").splitlines()
    assert lines == ["4 samples, scored by accuracy", f"main: accuracy {told['score']['main']:.1%}"]
    runs.train(config(tmp_path / "plain", epochs=1, data={"limit": 32}, supervise=None))
    with pytest.raises(ConfigError, match="it has no branches"):
        call("evaluate", str(tmp_path / "plain"), str(tmp_path / "new"), "--trust", "--branches")
