"""What the vectors that identities are searched with are trained by: settings of the section `embedding`."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from deepsup import losses, schedules
from deepsup.settings.section import Settings


class EmbeddingConfig(Settings):
    """A loss on features, for one label an image, such as identities: of all arms alike, with branches and without."""

    loss: str | dict[str, str | None] | None = None
    """`triplet`, `triplet(margin='soft')`, `circle`, ... on the feature of main and of every branch that scores, one term more
    each; or by output, `{main: triplet, early: null}`; null is none."""
    weight: float | str | dict[str, float | str] = 1.0
    """Of these terms: a number or a schedule over the training, for all or by output."""
    layer: str | dict[str, str] | None = None
    """The layer that makes main's scores, whose input is the embedding; of a branch by name its path in the head. Null is the
    last linear layer."""

    @field_validator("loss")
    @classmethod
    def _losses_are_known(cls, value: Any) -> Any:
        for text in value.values() if isinstance(value, dict) else [value]:
            if text is not None:
                losses.check(text)
        return value

    @field_validator("weight")
    @classmethod
    def _weights_are_schedules(cls, value: Any) -> Any:
        for weight in value.values() if isinstance(value, dict) else [value]:
            schedules.parse(weight)
        return value

    @property
    def of_plan(self) -> dict[str, Any]:
        """What `plan` and the doctor are told; nothing where nothing is set."""
        if self.loss is None and self.layer is None:
            return {}
        return {"embedding_loss": self.loss, "embedding_weight": self.weight, "embedding": self.layer}

    @property
    def of_main(self) -> str | None:
        """The layer that makes main's scores, if it is said."""
        return self.layer.get("main") if isinstance(self.layer, dict) else self.layer
