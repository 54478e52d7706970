"""Settings of a training step."""

from __future__ import annotations

import pytest

from deepsup.errors import ConfigError
from deepsup.settings import configs
from deepsup.settings.steps import StepConfig


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="two ways to clip"):
        configs.parse({"step": {"clip_norm": 1, "clip_value": 1}})
    for key, value in (("accumulate", 0), ("clip_norm", 0), ("clip_value", -1), ("ema", 1)):
        with pytest.raises(ConfigError, match=rf"step\.{key}"):
            configs.parse({"step": {key: value}})
    assert StepConfig() == StepConfig(accumulate=1, clip_norm=None, clip_value=None, ema=None)
