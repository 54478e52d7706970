"""What an objective takes from a plan: the terms, and what every output is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from deepsup import losses, specs
from deepsup.errors import BranchNameError, ConfigError
from deepsup.features import WHOLE
from deepsup.plans.plan import Plan
from deepsup.predictions import BY_TYPE, KINDS, Prediction
from deepsup.terms import TARGET, Edge


def edges_of(plan: Plan | None, main_loss: str | losses.Loss) -> tuple[Edge, ...]:
    """Every branch's own term, and the terms between outputs. Branches that have main's loss by the plan have this one."""
    if plan is None:
        return ()
    own = (
        Edge(b.name, loss=main_loss if b.loss == plan.main_loss else b.loss, weight=b.weight, bracket=b.bracket)
        for b in plan.branches
        if b.loss != "none"
    )
    return (*own, *plan.edges)


def predictions_of(plan: Plan | None, main_loss: str | losses.Loss, *, said: bool = False) -> dict[str, Prediction]:
    """What is planned of every output; `said`: the loss is no longer the plan's.

    Raises `ConfigError` for a loss that reads something else than was planned.
    """
    if plan is None:
        return {}
    main = plan.prediction
    takes = losses.describe(main_loss).kinds
    if main is not None and takes and main.kind in KINDS and main.kind not in (*takes, "other", "embedding"):
        raise ConfigError(
            f"loss {losses.show(main_loss)} reads {KINDS[takes[0]]}, and the plan's main output gives {main}. Say it when "
            f"planning, so that branches, ensembles and scores know: plan(..., loss={losses.show(main_loss)!r})."
        )
    if main is not None and main.source == BY_TYPE and said:
        main = replace(main, source="the objective's loss")
    main = None if plan.main == WHOLE else main  # of which only its loss knows what it is
    found = {"main": main, **{b.name: b.prediction for b in plan.branches}}
    return {name: prediction for name, prediction in found.items() if prediction is not None}


def axis_without_plan(plan: Plan | None, classes_axis: int | None) -> int | None:
    """Where the channels of an output are that has no plan. Raises `ConfigError` for another axis, and beside a plan."""
    if (
        isinstance(classes_axis, bool)
        or classes_axis not in (None, 1, -1)
        or (plan is not None and classes_axis is not None)
    ):
        raise ConfigError(
            f"classes_axis={classes_axis}: an objective without a plan is told 1 or -1, the last axis; with one, the plan knows: "
            "plan(..., classes_axis=)."
        )
    return classes_axis


def check_known(edge: Edge, known: set[str]) -> None:
    for output in (edge.source, edge.target):
        if output not in known:
            raise BranchNameError(
                f"the term {edge} names the output '{output}', which is not there.{specs.closest(output, sorted(known))} "
                f"Outputs: {', '.join(sorted(known - {TARGET}))}."
            )


def name_mismatch(aux: Mapping[str, Tensor], names: tuple[str, ...]) -> str:
    """What is said of outputs of other branches than the plan's."""
    missing = [n for n in names if n not in aux]
    extra = [n for n in aux if n not in names]
    parts = [f"the plan has {', '.join(missing)}, the outputs do not"] if missing else []
    parts += [f"the outputs have {', '.join(extra)}, the plan does not"] if extra else []
    return f"{'; '.join(parts)}. Use the plan that the model was attached with: Objective(net.plan)."
