"""Traps of the parameters: frozen, in half precision, or not held by the optimiser."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.optim import Optimizer

from deepsup.doctor.findings import Finding, branch, error, warning
from deepsup.doctor.patient import Setup
from deepsup.layers.wrappers import clean
from deepsup.plans.plan import Plan
from deepsup.supervision.branch_heads import Heads
from deepsup.supervision.parameter_groups import REMEDY, too_fast

NOTHING_TRAINABLE = error(
    "nothing-trainable",
    why="The loss has no gradient: backward stops, and no step changes anything",
    fix="Unfreeze what should learn: model.requires_grad_(True), or the same on some of its layers",
)
PARAMETERS_NOT_IN_OPTIMIZER = warning(
    "parameters-not-in-optimizer",
    why="They get gradients in every step, which cost time and memory, and never change",
    fix="If they should learn, make the optimiser with SGD(deepsup.parameter_groups(net, lr=...)); if not, freeze them: "
    "requires_grad_(False)",
)
HEAD_NOT_IN_OPTIMIZER = error(
    "head-not-in-optimizer",
    why="These heads stay as they were initialised, and pull the trunk towards random scores",
    fix="Make the optimiser after attach: SGD(deepsup.parameter_groups(net, lr=...))",
)
HEADS_TOO_FAST = warning(
    "heads-too-fast",
    why="Steep losses of large heads throw the weights further in every step, and training ends in infinite numbers",
    fix=f"{REMEDY[:1].upper()}{REMEDY[1:]}",
)
FOREIGN_OPTIMIZER = error(
    "foreign-optimizer",
    why="It holds none of this model's parameters, so no step changes anything",
    fix="Make the optimiser for this very net: SGD(deepsup.parameter_groups(net, lr=...))",
)
HALF_WEIGHTS = warning(
    "half-weights",
    why="Half precision (float16) rounds gradients under 3e-8 to zero and loses updates smaller than a thousandth of a weight; "
    "GradScaler refuses float16 gradients",
    fix="Keep the weights in float32 and run the forward under torch.autocast with a GradScaler, or use bfloat16",
)
FROZEN_HEAD = warning(
    "frozen-head",
    why="A head that does not learn pulls the trunk towards random scores",
    fix="Unfreeze it: net.heads[name].requires_grad_(True)",
)


def learning(setup: Setup, plan: Plan | None) -> Iterator[Finding]:
    """A model in which nothing can be trained; heads that can be, on a frozen trunk, are said elsewhere."""
    if any(p.requires_grad for p in (setup.net or setup.core).parameters()):
        return
    if setup.net is None and plan is not None and plan.branches:
        return
    every = [*(setup.net or setup.core).parameters()]
    what = f"nothing can be trained: all {len(every)} parameters are frozen" if every else "it has no parameter"
    yield NOTHING_TRAINABLE.found("model", what)


def optimising(setup: Setup, plan: Plan | None, optimizer: Optimizer | None) -> Iterator[Finding]:
    """Parameters that the optimiser should hold and does not."""
    if optimizer is None:
        return
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = {clean(n): p for n, p in setup.core.named_parameters() if p.requires_grad}
    left = [n for n, p in trained.items() if id(p) not in held]
    if trained and len(left) == len(trained):
        what = f"this {type(optimizer).__name__} holds no parameter of the model"
        yield FOREIGN_OPTIMIZER.found("optimizer", what)
    elif left:
        what = f"the optimiser lacks {len(left)} of {len(trained)} trainable parameters of the model ({left[0]}"
        yield PARAMETERS_NOT_IN_OPTIMIZER.found("optimizer", f"{what}{', ...' if len(left) > 1 else ''})")
    if setup.net is None and plan is not None and plan.branches:
        what = f"it was made before the heads of {', '.join(plan.names)} are attached"
        yield HEAD_NOT_IN_OPTIMIZER.found("optimizer", what)
    heads = setup.net.heads if setup.net else Heads({})
    for name in heads:
        missing = [n for n, p in heads.own(name) if p.requires_grad and id(p) not in held]
        if missing:
            what = f"the optimiser lacks {len(missing)} parameters of its head ({missing[0]}, ...)"
            yield HEAD_NOT_IN_OPTIMIZER.found(branch(name), what)
    if setup.net is not None and (what := too_fast(setup.net, optimizer)):
        yield HEADS_TOO_FAST.found("optimizer", what)


def precision(setup: Setup) -> Iterator[Finding]:
    """Weights in float16, and heads that cannot learn."""
    parts = [("model", setup.core), *([(branch(n), h) for n, h in setup.net.heads.items()] if setup.net else [])]
    half = [
        where for where, part in parts if any(p.dtype == torch.float16 and p.requires_grad for p in part.parameters())
    ]
    if half:
        yield HALF_WEIGHTS.found(", ".join(half), "its trainable weights are float16")
    heads = setup.net.heads if setup.net else Heads({})
    for name in heads:
        own = [p for _, p in heads.own(name)]
        if own and not any(p.requires_grad for p in own):
            yield FROZEN_HEAD.found(branch(name), "every parameter of its head is frozen")
