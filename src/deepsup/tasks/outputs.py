"""Raw scores of a net's outputs by name, and by which loss they are read."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from deepsup import losses
from deepsup.features import main_prediction
from deepsup.supervision.attaching import Outputs
from deepsup.supervision.exits import average
from deepsup.supervision.idle_branches import is_absent
from deepsup.supervision.objectives import Objective
from deepsup.terms import ENSEMBLE, TARGET


def scores_of(output: Any, objective: Objective) -> dict[str, Tensor]:
    """Raw scores (N, C, ...) of what predicts classes, by name: `main`, then the branches; an ensemble where terms use one."""
    plan = objective.plan
    main, aux = output if isinstance(output, Outputs) else (output, {})
    there = {name: t for name, t in aux.items() if not is_absent(t)}
    found = objective.complete({"main": main_prediction(main, plan.main if plan else ()), **there})
    scored = {ENSEMBLE, "main", *(b.name for b in plan.branches if b.predicts)} if plan else set(found)
    return {name: scores for name, scores in found.items() if name in scored}


def with_ensemble(found: dict[str, Tensor], objective: Objective) -> dict[str, Tensor]:
    """The outputs (N, C, ...) and the mean of their probabilities, unless there is one already or they do not fit."""
    alike = all(scores.shape == found["main"].shape for scores in found.values())
    if len(found) > 1 and ENSEMBLE not in found and alike and found["main"].ndim > 1:
        return {**found, ENSEMBLE: average(found.values(), [loss_of(name, objective) for name in found])}
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
