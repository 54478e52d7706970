"""The words of a command as settings; what is typed is the user's word, what a file says is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepsup.cli.words import run_settings, settings_of
from deepsup.errors import ConfigError, TrustError
from deepsup.settings import training


def test_words_without_a_sign_are_the_file_and_the_others_lie_over_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("epochs: 3\nseed: 5\n")
    config = run_settings([str(tmp_path / "a.yaml"), "epochs=4"])
    assert (config.epochs, config.seed) == (4, 5)
    assert settings_of(None) == settings_of([]) == training.TrainConfig()
    with pytest.raises(ConfigError, match=r"one configuration file at a time; found a\.yaml, b\.yaml"):
        settings_of(["a.yaml", "b.yaml"])
    with pytest.raises(ConfigError, match="this configuration describes a comparison"):
        run_settings(["methods=[none, label-smoothing]"])


def test_a_file_does_not_trust_itself(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model: mine:Net\n")
    with pytest.raises(TrustError):
        settings_of([str(file)])
    assert run_settings([str(file)], trust=True).model == "mine:Net"
    assert run_settings([str(file), "model=mine:Net"]).model == "mine:Net"
