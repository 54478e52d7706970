"""Raw scores of a net's outputs by name, and by which loss they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from deepsup import losses
from deepsup.supervision.exits import average
from deepsup.supervision.objectives import Objective
from deepsup.terms import ENSEMBLE, TARGET


def scores_of(output: Any, objective: Objective) -> dict[str, Tensor]:
    """Raw scores (N, C, ...) of what predicts, by name: `main`, then the branches; an ensemble where terms use one."""
    plan, found = objective.plan, objective.scores(output)
    scored = {ENSEMBLE, "main", *(b.name for b in plan.branches if b.predicts)} if plan else set(found)
    return {name: scores for name, scores in found.items() if name in scored}


def with_ensemble(found: dict[str, Tensor], objective: Objective) -> dict[str, Tensor]:
    """The outputs (N, C, ...) and the mean of what they say, unless there is one already or they do not fit."""
    alike = all(scores.shape == found["main"].shape for scores in found.values())
    if len(found) > 1 and ENSEMBLE not in found and alike and found["main"].ndim > 1:
        return {**found, ENSEMBLE: average(found.values(), class_kinds(found, objective))}
    return found


def loss_of(name: str, objective: Objective) -> losses.Loss | str:
    """The loss of an output against the labels, which says how its scores become probabilities; else the main one's."""
    own = (edge.loss for edge in objective.edges if edge.source == name and edge.target == TARGET)
    return next((loss for loss in own if losses.describe(loss).scores), objective.edges[0].loss)


def ignored(objective: Objective) -> int:
    """The label that does not count by the main output's loss; labels below 0 never do."""
    return int(losses.option(loss_of("main", objective), "ignore_index", losses.IGNORE))


def classes_in(
    scores: Tensor,  # (N, C, *places)
) -> int:
    """How many classes scores tell apart: a single channel two."""
    return max(2, scores.shape[1] if scores.ndim > 1 else 2)


def is_labels(target: Any) -> bool:
    """Whether a target is class indices: whole numbers."""
    return isinstance(target, Tensor) and not target.is_floating_point() and not target.is_complex()


def without_channel(target: Tensor, places: int | None) -> Tensor:
    """Labels (N, 1, *places) as (N, *places)."""
    one = places is not None and target.ndim == places + 2 and target.shape[1] == 1
    return target.squeeze(1) if one else target


def class_kinds(names: Iterable[str], objective: Objective) -> list[str]:
    """The kinds of outputs that are scored against class indices, which is what a loss of one's own then means."""
    return ["class" if (kind := objective.kind(name)) == "other" else kind for name in names]
