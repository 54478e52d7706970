"""What the main output and every branch predict: found when a plan is made, from what is said, the losses and the layers."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from deepsup import heads, losses, predictions
from deepsup.errors import ConfigError
from deepsup.layers.dry_run import Trace
from deepsup.predictions import Prediction


class Said(NamedTuple):
    """What `plan` was told of the main output."""

    task: str | None
    classes_axis: int | None

    @property
    def kind(self) -> str | None:
        return None if self.task is None else predictions.word(self.task).kind


def usual_loss(model: nn.Module, task: str | None) -> str | None:
    """The main loss that a task has, or that the model's own configuration says (transformers'); None: neither says.

    The word of transformers: `problem_type`, a single label means a value, and causal language models predict the next token.
    """
    if task is not None:
        return predictions.word(task).loss
    config = getattr(model, "config", None)
    kind, labels, name = (
        getattr(config, "problem_type", None),
        getattr(config, "num_labels", None),
        type(model).__name__,
    )
    if "Classification" in name and kind == "multi_label_classification":
        return "binary"
    if name.endswith("ForSequenceClassification") and (kind == "regression" or (kind is None and labels == 1)):
        return "mse"
    if config is not None and name.endswith(("ForCausalLM", "LMHeadModel")):
        return "cross_entropy(shift=1)"
    return None


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
        return seen.axis, seen.axis_source
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
