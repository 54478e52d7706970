"""What a run writes down and how often: settings of the sections `log`, `checkpoint` and `validation`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deepsup.errors import ConfigError
from deepsup.settings.section import Settings
from deepsup.tasks import TASKS


class LogConfig(Settings):
    """What the journal holds besides the epochs."""

    every: int = Field(default=10, ge=1)
    """Steps from one `step` record to the next."""
    gradients: int = Field(default=30, ge=0)
    """For how many first steps the gradients of all layers are recorded."""
    conflict: bool = True
    """Measure in every step whether a branch pulls with or against what comes from above it."""
    parameter_conflict: int = Field(default=0, ge=0)
    """Also compare gradients of the shared parameters, every so many steps (one extra backward a loss); 0 is never."""
    tensorboard: bool = False
    """Also write TensorBoard events, to `tensorboard/` in the run's folder; needs the extra `tensorboard`."""
    loggers: tuple[str, ...] = ()
    """Where records also go, by name, with options: those of `deepsup.training.loggers.LOGGERS`."""


class CheckpointConfig(Settings):
    """Which checkpoints are written and kept besides that of the last epoch."""

    every_steps: int | None = Field(default=None, ge=1)
    """Steps from one checkpoint to the next within an epoch; null is none."""
    best: bool = False
    """Also keep the weights of the epoch with the best score, in `best.safetensors` and `best_heads.safetensors`. The score of
    the run stays that of its last epoch: the best of many on the same images is better than it is."""
    last: int = Field(default=1, ge=1)
    """Of how many epochs the checkpoints stay: 1 is `checkpoint.ckpt` alone, 3 also the last three
    `checkpoints/epoch-0007.ckpt`."""


class ValidationConfig(Settings):
    """How often a run is scored on its validation images, and how identities are searched for."""

    every: int = Field(default=1, ge=1)
    """Epochs from one validation to the next; the last epoch is always followed by one."""
    patience: int | None = Field(default=None, ge=1)
    """A run ends once so many epochs bring no better score than the best before them (early stopping); null is never."""
    rerank: bool = False
    """Of identities: at the end every output is scored a second time, re-ranked by k-reciprocal neighbours."""
    multi_query: Literal["mean", "max"] | None = None
    """Of identities: a query is the mean, or the largest values, of all images of its identity on its camera."""

    def check(self, task: str, *, of: str) -> None:
        """Raise `ConfigError` for what is for a search alone, where the data set `of` is none."""
        if self.rerank and self.patience is not None:
            raise ConfigError(
                "validation.rerank is of the last epoch, and with validation.patience nobody knows beforehand which that is. "
                "Set one of them."
            )
        given = [name for name in ("rerank", "multi_query") if getattr(self, name)]
        if given and task != "re-identification":
            raise ConfigError(
                f"validation.{given[0]} is for searches, and {of} has {TASKS[task].labelled}. Take it out."
            )
