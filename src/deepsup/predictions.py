"""What an output is: one frozen record of its kind and of the axis of its classes, found once and read by everyone.

Whoever computes with an output (losses, mimicry, ensembles, metrics) is given it as `Prediction.first` makes it, with the
classes, labels or values on axis 1: (N, C, *places). Where they stand in what the model returns is known here alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor

from deepsup.errors import ConfigError, OutputError
from deepsup.specs import LATER, closest

KINDS = {
    "class": "classes",  # one of C, through a softmax
    "labels": "labels",  # any of C, each through a sigmoid; one logit included
    "values": "values",  # C real numbers
    "embedding": "numbers of an embedding",
    "other": "numbers",  # what the user's own loss makes of it
}
BY_SHAPE = "its shape"  # the source of an axis that no layer tells
BY_TYPE = "its own loss, which reads floats as labels"  # the source of classes where floats (N, C) may be either
_PLACES = {0: "", 1: "L", 2: "H, W", 3: "D, H, W"}


@dataclass(frozen=True)
class Prediction:
    """What an output is: kind (see `KINDS`), axis of its channels (1 or -1), how many, how many axes of places, and how
    that is known.

    >>> print(Prediction("class", -1, 9, 1, "the last Linear"))
    9 classes on the last axis, (N, L, 9), by the last Linear
    """

    kind: str
    axis: int
    classes: int
    places: int
    source: str

    def first(self, output: Tensor) -> Tensor:
        """The output with its channels on axis 1, (N, C, *places), as a view.

        Raises `OutputError` where it has another number of channels, or of dimensions, than was planned.
        """
        if output.ndim != self.places + 2 or output.shape[self.axis] != self.classes:
            raise OutputError(
                f"the output has shape {tuple(output.shape)}, and what was planned is {self}. A model that returns something "
                "else in evaluation needs main= for what is the same in both, or a new plan."
            )
        return output.movedim(-1, 1) if self.axis == -1 and self.places else output

    def first_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that `first` gives to an output of this one."""
        return (shape[0], shape[-1], *shape[1:-1]) if self.axis == -1 and len(shape) > 2 else shape

    def first_target(self, target: Any) -> Any:
        """A target in the model's own layout, channels where its output has them, as `first` makes outputs.

        Targets without an axis for channels, and those that have it on axis 1 already, stay.
        """
        if not isinstance(target, Tensor) or self.axis == 1 or not self.places or target.ndim != self.places + 2:
            return target
        if target.shape[-1] == self.classes:
            return target.movedim(-1, 1)
        return target.squeeze(-1) if target.shape[-1] == 1 != target.shape[1] else target

    def back(self, scores: Tensor) -> Tensor:
        """The inverse of `first`: channels where the model has them."""
        return scores.movedim(1, -1) if self.axis == -1 and scores.ndim > 2 else scores

    @property
    def shape(self) -> str:
        """`(N, 9, H, W)`."""
        places = _PLACES.get(self.places, f"{self.places} axes")
        parts = ["N", str(self.classes), places] if self.axis == 1 else ["N", places, str(self.classes)]
        return f"({', '.join(part for part in parts if part)})"

    def __str__(self) -> str:
        noun = KINDS[self.kind][: -1 if self.classes == 1 and self.kind in ("labels", "values") else None]
        noun = "class" if self.classes == 1 and self.kind == "class" else noun
        if not self.places:
            return f"{self.classes} {noun}, {self.shape}"
        where = "axis 1" if self.axis == 1 else "the last axis"
        return f"{self.classes} {noun} on {where}, {self.shape}, by {self.source}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it."""
        return asdict(self)


class Word(NamedTuple):
    """What the name of a task says of a model's output: its kind, its axis where the task has one, and the usual loss."""

    kind: str
    axis: int | None
    loss: str


TASKS: dict[str, Word] = {}
"""What the name of every task says; tasks write themselves into it (`deepsup.tasks`)."""


def word(task: str) -> Word:
    """Raises `ConfigError` for a task that there is not."""
    LATER["tasks"]()  # whose files have the words
    if task not in TASKS:
        raise ConfigError(f"there is no task {task!r}.{closest(task, TASKS)} Tasks: {', '.join(TASKS)}.")
    return TASKS[task]
