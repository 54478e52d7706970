"""An objective as the criterion that other people's loops expect: (outputs, target) -> one tensor.

>>> criterion = ds.Criterion(plan, progress=lambda: trainer.global_step / trainer.max_steps)
>>> criterion(net(x), y).backward()
>>> criterion.scalars()                           # {"total": ..., "main": ..., "layer1": ...}, of the last call
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deepsup import losses, specs
from deepsup.errors import ConfigError
from deepsup.plans.plan import Plan
from deepsup.supervision.loss_terms import Terms
from deepsup.supervision.objectives import Objective


class Criterion(nn.Module):
    """The total of an objective, as a module without parameters; in training, in eval mode, and for a plain model's outputs.

    `plan` may be an `Objective`; `loss` is the objective's, see there. `progress` is a function that says how much of the
    training is done, in [0, 1], in each call; or `steps` says how many training calls there will be, and they are counted
    (a call trains where its total has a graph; after the last progress stays at 1). Neither is needed where every weight is
    constant. What it has counted, and what the objective remembers, are in its `state_dict`.

    `terms` are those of the last call, without graphs. Raises `ConfigError` where a weight changes and nothing says the
    progress, and what the objective raises.
    """

    def __init__(
        self,
        plan: Plan | Objective | None = None,
        *,
        loss: str | losses.Loss | None = None,
        progress: Callable[[], float] | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(plan, Objective) and loss is not None:
            raise ConfigError("loss= beside an objective: the objective has its losses. Give loss= to Objective.")
        self.objective = plan if isinstance(plan, Objective) else Objective(plan, loss=loss)
        said = progress is not None, steps is not None
        if all(said) or not (any(said) or self.objective.is_constant):
            raise ConfigError(
                "a criterion is told either progress=, a function of nothing that returns the share of training that is done, "
                f"or steps=, the number of training calls; found {'both' if all(said) else 'neither'}, with {self.objective!r}."
            )
        specs.hold("Criterion", specs.INTEGER, steps=steps)
        if steps is not None and steps < 1:
            raise ConfigError(f"steps= is the number of training calls, 1 or more; found {steps!r}.")
        self.progress, self.steps, self.calls = progress, steps, 0
        self.terms: Terms | None = None

    def forward(self, outputs: Any, target: Any) -> Tensor:
        """The loss, a tensor without dimensions; `outputs` as the supervised or plain model returned them."""
        terms = self.objective(outputs, target, progress=self._now())
        if terms.total.requires_grad:
            self.calls += 1
        self.terms = terms.detached()
        return terms.total

    def scalars(self) -> dict[str, float]:
        """Total and parts of the last call as numbers; empty before the first."""
        return {} if self.terms is None else self.terms.scalars()

    def _now(self) -> float | None:
        if self.progress is not None:
            return float(self.progress())
        return None if self.steps is None else min(self.calls / self.steps, 1.0)

    def get_extra_state(self) -> dict[str, Any]:
        """How many training calls there were, and what the objective remembers."""
        return {"calls": torch.tensor(self.calls), "objective": self.objective.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.calls = int(state["calls"])
        self.objective.load_state_dict(state["objective"])

    def extra_repr(self) -> str:
        """The formula."""
        return repr(self.objective)
