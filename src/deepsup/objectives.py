"""From outputs and target to one loss, with every part and weight labelled by name.

>>> objective = ds.Objective(plan)
>>> terms = objective(net(x), y, progress=step / total)
>>> terms.total.backward()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import losses, schedules
from .errors import BranchNameError, ConfigError, HeadError, OutputError
from .features import main_prediction
from .plans import Plan
from .supervised import Outputs


class Terms(NamedTuple):
    """The loss and what it is made of: `total = sum of weights[name] * parts[name]`; parts are not weighted."""

    total: Tensor
    parts: dict[str, Tensor]
    weights: dict[str, float]


@dataclass(frozen=True)
class Edge:
    """One term: the loss between the output called `source` and the target, with its weight over progress."""

    source: str
    loss: str | losses.Loss
    weight: Callable[[float], float]


class Objective:
    """The weighted sum of the main loss and every branch's. Prints as its formula.

    `loss` replaces the main output's loss (branches keep those of the plan); `plan=None` is the plain model.
    """

    def __init__(self, plan: Plan | None = None, *, loss: str | losses.Loss = "cross_entropy") -> None:
        self.plan = plan
        branches = plan.branches if plan else ()
        self.edges = (
            Edge("main", loss, schedules.constant(1)),
            *(Edge(b.name, b.loss, b.weight) for b in branches),
        )
        self._labels_checked = False

    def __call__(self, outputs: Any, target: Any, *, progress: float | None = None) -> Terms:
        """`outputs` is what the supervised or plain model returned; `progress` the share of training done, in [0, 1].

        `progress` may be left out where every weight is constant.

        A branch of weight 0 still takes part, so that its head gets a zero gradient (DistributedDataParallel needs
        one). Raises `BranchNameError` when outputs and plan name different branches, `HeadError` or `ClassCountError`
        when the target does not fit, `OutputError` for a plain output where branches should have been trained.
        """
        progress = self._checked(progress)
        found = self._predictions(outputs)
        named = isinstance(self.edges[0].loss, str)  # a loss of the user's own may take any target
        if named and not self._labels_checked and found["main"].ndim >= 2 and not torch.compiler.is_compiling():
            losses.check_labels(found["main"].shape[1], target)
            self._labels_checked = True
        edges = [e for e in self.edges if e.source in found]
        parts = {e.source: _part(e, found[e.source], target) for e in edges}
        weights = {e.source: float(e.weight(progress)) for e in edges}
        total = parts["main"]
        for edge in edges[1:]:
            total = total + weights[edge.source] * parts[edge.source]
        return Terms(total, parts, weights)

    def _checked(self, progress: float | None) -> float:
        if progress is None:
            moving = [e for e in self.edges if not isinstance(e.weight, schedules.constant)]
            if moving:
                raise ConfigError(
                    f"the weight of '{moving[0].source}' changes over training ({moving[0].weight!r}): pass progress=, the "
                    "share of training that is done, for example step / steps."
                )
            return 0.0
        if not 0 <= progress <= 1:
            raise ConfigError(f"progress is the share of training that is done, in [0, 1]; found {progress!r}.")
        return progress

    def _predictions(self, outputs: Any) -> dict[str, Tensor]:
        pick = self.plan.main if self.plan else ()
        names = self.plan.names if self.plan else ()
        if not isinstance(outputs, Outputs):
            main = main_prediction(outputs, pick)
            if names and main.requires_grad:
                raise OutputError(
                    f"the plan has branches ({', '.join(names)}), but the output is the plain model's: it was run in eval "
                    "mode or is not attached. Call net.train(), or wrap evaluation in torch.no_grad()."
                )
            return {"main": main}
        if set(outputs.aux) != set(names):
            raise BranchNameError(_name_mismatch(outputs.aux, names))
        return {"main": main_prediction(outputs.main, pick), **outputs.aux}

    def __repr__(self) -> str:
        terms = [f"{losses.show(self.edges[0].loss)}(main, y)"]
        for e in self.edges[1:]:
            weight = f"{e.weight.value:g}" if isinstance(e.weight, schedules.constant) else repr(e.weight)
            terms.append(f"{weight} * {losses.show(e.loss)}({e.source}, y)")
        return "total = " + " + ".join(terms)


def _part(edge: Edge, prediction: Tensor, target: Any) -> Tensor:
    value = losses.get(edge.loss)(prediction, target)
    if value.ndim:
        raise HeadError(
            f"the loss of '{edge.source}' ({losses.show(edge.loss)}) returned a tensor of shape {tuple(value.shape)}; it must "
            "return one number. Average over the batch."
        )
    return value


def _name_mismatch(aux: Mapping[str, Tensor], names: tuple[str, ...]) -> str:
    missing = [n for n in names if n not in aux]
    extra = [n for n in aux if n not in names]
    parts = [f"the plan has {', '.join(missing)}, the outputs do not"] if missing else []
    parts += [f"the outputs have {', '.join(extra)}, the plan does not"] if extra else []
    return f"{'; '.join(parts)}. Use the plan that the model was attached with: Objective(net.plan)."
