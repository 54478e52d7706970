"""What else a training step does: settings of the section `step`."""

from __future__ import annotations

from pydantic import Field, model_validator

from deepsup.errors import ConfigError
from deepsup.settings.section import Settings


class StepConfig(Settings):
    """What a step does with its gradients and weights besides the optimiser."""

    accumulate: int = Field(default=1, ge=1)
    """So many batches make one step of the optimiser, with the mean gradient of their samples; the last of an epoch may have
    fewer. What normalisation and losses see stays one batch."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Gradients are scaled down so that the norm of all of them together is at most this; null is as they are."""
    clip_value: float | None = Field(default=None, gt=0)
    """Every entry of a gradient is cut off at this and at minus this; null is as they are."""
    ema: float | None = Field(default=None, ge=0, lt=1)
    """Keep a mean of the weights and buffers over the steps, of which this share stays in every step (0.999); it is what is
    validated, saved, and in the net at the end. Null is none."""

    @model_validator(mode="after")
    def _clips_one_way(self) -> StepConfig:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ConfigError("clip_norm and clip_value are two ways to clip a gradient. Set one of them.")
        return self
