"""Batches that begin with the samples of the one before, each half in a forward of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from deepsup.supervision.objectives import Objective


def outputs_of(run: Callable[[Any], Any], objective: Objective, x: Any, target: Any) -> Any:
    """What `run` gives out for a batch, ready for `objective(outputs, target)`.

    >>> terms = objective(outputs_of(net, objective, x, y), y)

    One forward, but where the plan has two (`dlb`): the new samples first, and then those that the batch begins with because
    they were new in the one before, as released, so that batch normalisation sees each half alone. Outputs come back in the
    order of the batch, whatever tensors (N, ...) they are.
    """
    plan = objective.plan
    rows = objective.repeated(target) if plan is not None and plan.forwards == 2 else 0
    if not rows:
        return run(x)
    new = run(tree_map(lambda part: part[rows:] if isinstance(part, Tensor) else part, x))
    again = run(tree_map(lambda part: part[:rows] if isinstance(part, Tensor) else part, x))
    return tree_map(lambda a, b: torch.cat([a, b]) if isinstance(a, Tensor) and a.ndim else b, again, new)
