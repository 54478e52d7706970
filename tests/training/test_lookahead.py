"""Nets that are to tell the next token and have seen it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepsup.errors import ConfigError
from deepsup.settings import configs, training
from deepsup.training import prepare
from tests.support.tiny_tokens import settings, write_sums, write_walks

SEES = {"model_options": {"width": 16, "heads": 2, "causal": False}}


def prepared(root: Path, **changes: Any) -> prepare.Prepared:
    config = configs.parse(settings(root, root / "run", **changes))
    assert isinstance(config, training.TrainConfig)
    return prepare.prepare(config)


@pytest.mark.parametrize("supervise", [None, {"at": ["50%"]}])
def test_a_net_that_sees_what_follows_cannot_learn_to_tell_it(tmp_path: Path, supervise: Any) -> None:
    write_walks(tmp_path)
    with pytest.raises(ConfigError, match=r"deepsup:transformer-2 says of place 0 depends on the last token"):
        prepared(tmp_path, supervise=supervise, **SEES)
    prepared(tmp_path, supervise=supervise)


def test_one_place_ahead_is_enough(tmp_path: Path) -> None:
    write_walks(tmp_path)
    with pytest.raises(ConfigError, match=r"Convolved says of place 5 depends"):
        prepared(tmp_path, model="tests.support.tiny_tokens:Convolved", model_options={})


def test_labels_of_the_tokens_that_are_there_may_be_told_from_all(tmp_path: Path) -> None:
    prepared(write_sums(tmp_path), **SEES)


def test_labels_that_follow_are_not_shifted_again(tmp_path: Path) -> None:
    write_walks(tmp_path)
    with pytest.raises(ConfigError, match=r"cross_entropy\(shift=1\) shifts the labels by 1, and in tokens"):
        prepared(tmp_path, loss="cross_entropy(shift=1)")
    prepared(write_sums(tmp_path / "sums"), loss="cross_entropy(shift=1)")
