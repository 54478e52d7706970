from __future__ import annotations

import pytest

from deepsup.settings.configs import load
from deepsup.settings.training import TrainConfig


def test_defaults_are_a_single_run_of_the_plain_model():
    config = load()
    assert isinstance(config, TrainConfig)
    assert config.supervise is None
    assert config.output == "runs/run"
    assert load(None, ["name=other"]).output == "runs/other"


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load().name = "other"  # type: ignore[misc]
