"""The words of `train`, `compare`, `probe` and `doctor` as settings: a YAML file, and settings laid over it."""

from __future__ import annotations

from collections.abc import Sequence

from deepsup.errors import ConfigError
from deepsup.settings import configs, training
from deepsup.settings.comparison import ComparisonConfig


def settings_of(words: Sequence[str] | None, *, trust: bool = False) -> configs.Config:
    """Words without `=` are the file, the others overrides; what the overrides name is the user's word for it.

    Raises `ConfigError`, or `TrustError` where the file alone names a network from elsewhere, unless `trust` allows it.
    """
    files = [w for w in words or [] if "=" not in w]
    if len(files) > 1:
        raise ConfigError(
            f"one configuration file at a time; found {', '.join(files)}. Settings are written key=value."
        )
    return configs.load(files[0] if files else None, [w for w in words or [] if "=" in w], trust=trust)


def run_settings(words: Sequence[str] | None, *, trust: bool = False) -> training.TrainConfig:
    """The settings of a single run."""
    config = settings_of(words, trust=trust)
    if isinstance(config, ComparisonConfig):
        raise ConfigError("this configuration describes a comparison. Use `deepsup compare`, or a file without arms.")
    return config
