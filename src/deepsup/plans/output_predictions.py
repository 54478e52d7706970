"""What the main output and every branch predict: found when a plan is made, from what is said, the losses and the layers."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from deepsup import heads, losses, predictions
from deepsup.errors import ConfigError
from deepsup.features import WHOLE, read_pick
from deepsup.layers.dry_run import Trace
from deepsup.plans.own_loss import own_loss
from deepsup.predictions import Prediction


class Said(NamedTuple):
    """What `plan` was told of the main output; `own_axis` is the one that the model's own loss reads."""

    task: str | None
    classes_axis: int | None
    own_axis: int | None = None

    @property
    def kind(self) -> str | None:
        return None if self.task is None else predictions.word(self.task).kind


def usual_loss(model: nn.Module, sample: Any, task: str | None, main: str | None) -> tuple[str | None, int | None]:
    """The main loss that a task has, or the model of its own (transformers'), None where neither says; the axis that it reads.

    Raises `ConfigError` where the model has one that is none of ours.
    """
    pick, said = None if main is None else read_pick(main), None if task is None else predictions.word(task)
    usual = said.loss if said else None
    try:
        own = None if pick == WHOLE else own_loss(model, sample, pick)
    except ConfigError:
        if said is None:
            raise
        return usual, None
    if own is None or (said is not None and said.kind != losses.describe(own.loss).kinds[0]):
        return usual, None
    return usual if own.loss == "cross_entropy" else own.loss, own.axis  # a method may have another one for classes


def of_whole(seen: Trace, classes: int | None, loss: str | losses.Loss) -> Prediction:
    """What all that the model returns is: only the user's loss knows. Raises `ConfigError` where it is another."""
    if losses.describe(loss).kinds or losses.is_ours(loss):
        raise ConfigError(
            f"main='*' hands all that {seen.model} returns to a loss of your own; loss {losses.show(loss)} reads one tensor. "
            "Pass main_loss=, a function of (output, target)."
        )
    shape = seen.output[seen.main]
    return Prediction("other", 1, classes or (shape[1] if len(shape) > 1 else 1), 0, "main='*', the whole output")


def of_main(seen: Trace, said: Said, loss: str | losses.Loss) -> Prediction:
    """What the main output is. Raises `ConfigError`, `HeadError` or `OutputError` where what is said does not fit."""
    shape = seen.output[seen.main]
    classes, (axis, source) = seen.classes, _axis(seen, said, shape)
    if axis != seen.axis:
        classes = shape[axis]
    takes = losses.describe(loss).kinds
    kind = said.kind or (takes[0] if takes else "class" if said.task else "other")
    if said.kind is None and not takes:
        source = f"{source}; your own loss says what it means"
    losses.check_kind(loss, kind)
    return Prediction(kind, axis, classes, len(shape) - 2, source)


def _axis(seen: Trace, said: Said, shape: tuple[int, ...]) -> tuple[int, str]:
    axis, source = said.classes_axis, "classes_axis"
    if axis is None and said.task is not None:
        axis, source = predictions.word(said.task).axis, f"task '{said.task}'"
    if axis is None:
        other = len(shape) > 2 and said.own_axis not in (None, seen.axis)
        return (-seen.axis, "its own loss") if other else (seen.axis, seen.axis_source)
    if axis not in (1, -1, len(shape) - 1) or len(shape) < 2:
        raise ConfigError(
            f"classes_axis={axis}: the classes of an output of shape {shape} stand on axis 1, or on the last, -1."
        )
    return 1 if axis == 1 else -1, source


def of_branch(head: heads.HeadLike, loss: str | losses.Loss, shape: tuple[int, ...], main: Prediction) -> Prediction:
    """What a head gives out, whose output for two samples has this shape.

    Heads of ours have their classes on axis 1; those that repeat the model's own layers, and the user's, where the model has
    them, unless the number of channels fits the other axis alone.
    """
    if len(shape) < 2:  # which fits no target, and is said where that is seen
        return Prediction("other", 1, 1, 0, heads.show(head))
    if not heads.describe(head).scores:
        return Prediction("embedding", 1, shape[1], len(shape) - 2, heads.show(head))
    ours = isinstance(head, str) and not heads.describe(head).as_model
    axis = 1 if ours else main.axis
    if not ours and shape[axis] != main.classes and shape[-axis] == main.classes:
        axis = -axis
    takes = losses.describe(loss).kinds if losses.describe(loss).scores else ()
    # One class against the rest goes through a sigmoid, whatever main does.
    keeps = not takes or (main.kind in takes and not losses.describe(loss).binary)
    kind = main.kind if keeps else takes[0]
    return Prediction(kind, axis if len(shape) > 2 else 1, shape[axis], len(shape) - 2, heads.show(head))
