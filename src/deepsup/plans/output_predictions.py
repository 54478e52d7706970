"""What the main output and every branch predict: found when a plan is made, from what is said, the losses and the layers."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from deepsup import heads, losses, predictions
from deepsup.errors import ConfigError, HeadError
from deepsup.features import WHOLE, read_pick
from deepsup.heads.cost import Price
from deepsup.layers.dry_run import Trace
from deepsup.plans.own_loss import OwnLoss, own_loss
from deepsup.predictions import BY_TYPE, Prediction

SAID_AXIS = "classes_axis"  # the source of an axis that the user has said


class Said(NamedTuple):
    """What `plan` was told of the main output; `own` is the model's own loss, where main has it because nobody said another."""

    task: str | None
    classes_axis: int | None
    own: OwnLoss | None = None

    @property
    def kind(self) -> str | None:
        return None if self.task is None else predictions.word(self.task).kind


def usual_loss(model: nn.Module, sample: Any, task: str | None, main: str | None) -> tuple[str | None, OwnLoss | None]:
    """The main loss that a task has, or the model of its own (transformers'), None where neither says; and the latter.

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
    return usual if own.loss == "cross_entropy" else own.loss, own  # a method may have another one for classes


def of_whole(seen: Trace, classes: int | None, loss: str | losses.Loss) -> Prediction:
    """What all that the model returns is: only the user's loss knows. Raises `ConfigError` where it is another."""
    if losses.describe(loss).kinds or losses.is_ours(loss):
        raise ConfigError(
            f"main='*' hands all that {seen.model} returns to a loss of your own; loss {losses.show(loss)} reads one tensor. "
            "Pass loss=, a function of (output, target)."
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
    axis, source = said.classes_axis, SAID_AXIS
    if axis is None and said.task is not None:
        axis, source = predictions.word(said.task).axis, f"task '{said.task}'"
    if axis is None:
        if said.own is not None and said.own.by_type and said.task is None:
            return seen.axis, BY_TYPE
        other = len(shape) > 2 and said.own is not None and said.own.axis not in (None, seen.axis)
        return (-seen.axis, "its own loss") if other else (seen.axis, seen.axis_source)
    if axis not in (1, -1, len(shape) - 1) or len(shape) < 2:
        raise ConfigError(
            f"classes_axis={axis}: the classes of an output of shape {shape} stand on axis 1, or on the last, -1."
        )
    return 1 if axis == 1 else -1, source


def of_branch(name: str, head: heads.HeadLike, loss: str | losses.Loss, cost: Price, main: Prediction) -> Prediction:
    """What the head of a branch gives out, by its output for two samples and its own layers.

    Heads of ours have their classes on axis 1; those that repeat the model's own layers where the model has them; a user's
    where its attribute `classes_axis` says, or its last weighted layer, or on the one axis that is as long as main has classes.
    Raises `HeadError` where the latter two contradict one another, or nothing tells two axes apart.
    """
    shape = cost.shape
    if len(shape) < 2:  # which fits no target, and is said where that is seen
        return Prediction("other", 1, 1, 0, heads.show(head))
    if not heads.describe(head).scores:
        return Prediction("embedding", 1, shape[1], len(shape) - 2, heads.show(head))
    ours = isinstance(head, str) and not heads.describe(head).as_model
    axis = 1 if ours or len(shape) == 2 else _axis_of_head(name, head, cost, main)
    takes = losses.describe(loss).kinds if losses.describe(loss).scores else ()
    # One class against the rest goes through a sigmoid, whatever main does.
    keeps = not takes or (main.kind in takes and not losses.describe(loss).binary)
    kind = main.kind if keeps else takes[0]
    return Prediction(kind, axis, shape[axis], len(shape) - 2, heads.show(head))


def _axis_of_head(name: str, head: heads.HeadLike, cost: Price, main: Prediction) -> int:
    """Where a head that is not ours has its channels: 1 or -1."""
    fits = [axis for axis in (1, -1) if cost.shape[axis] == main.classes]
    if isinstance(head, str):
        return main.axis if len(fits) != 1 else fits[0]
    said = getattr(head, "classes_axis", None)
    if said is None and main.source == SAID_AXIS and main.axis in fits:
        said = main.axis
    if said in (1, -1):
        return int(said)
    if (cost.axis is None and len(fits) == 2) or (cost.axis is not None and fits == [-cost.axis]):
        why = "both axes are as long" if cost.axis is None else f"its last layer has its channels on axis {cost.axis}"
        raise HeadError(
            f"the head of branch '{name}' ({heads.show(head)}) gives {cost.shape}, and where its {main.classes} classes stand is "
            f"not clear: {why}, and {'no layer tells' if cost.axis is None else f'axis {fits[0]} is as long'}. Say it by an "
            "attribute of the module or function: head.classes_axis = 1, or -1 for the last."
        )
    return cost.axis or (fits[0] if fits else main.axis)
