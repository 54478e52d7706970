"""Settings of what a run writes down."""

from __future__ import annotations

import pytest

from deepsup.errors import ConfigError
from deepsup.settings import configs
from deepsup.settings.watching import CheckpointConfig, LogConfig, ValidationConfig


def test_what_is_for_a_search_is_refused_where_none_is_made() -> None:
    ValidationConfig(rerank=True, multi_query="max").check("re-identification", of="market1501")
    with pytest.raises(ConfigError, match=r"validation.rerank is for searches, and digits has one label an image"):
        configs.parse({"validation": {"rerank": True}})
    with pytest.raises(ConfigError, match=r"validation.multi_query is for searches, and camvid has a label a pixel"):
        configs.parse({"validation": {"multi_query": "mean"}, "data": {"name": "camvid"}})
    with pytest.raises(ConfigError, match="multi_query"):
        configs.parse({"validation": {"multi_query": "median"}})


def test_every_epoch_is_the_default_and_less_is_allowed_for_every_task() -> None:
    assert ValidationConfig() == ValidationConfig(every=1, rerank=False, multi_query=None)
    assert configs.parse({"validation": {"every": 5}}).validation.every == 5  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"validation\.every"):
        configs.parse({"validation": {"every": 0}})
    assert (LogConfig().every, CheckpointConfig().every_steps) == (10, None)
