"""Traps of the branches: what they cost, terms of the objective that miss them, weights over the training, gradient rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from deepsup import gradients, heads, methods, schedules
from deepsup.doctor.findings import WARNING, Finding, branch, error, warning
from deepsup.doctor.patient import Setup, copied
from deepsup.errors import ConfigError, DeepsupError
from deepsup.layers.snapshot import untouched
from deepsup.plans.naming import RESERVED
from deepsup.plans.plan import Branch, Plan, millions
from deepsup.supervision.objectives import Objective
from deepsup.terms import ENSEMBLE, GATE, INPUT

EARLY, HEAVY = 1 / 3, 0.5
STEPS = [i / 100 for i in range(101)]  # of progress, at which schedules are looked at

DEAR_BRANCH = warning(
    "dear-branch",
    why="The branch costs more than the model it should help, in every training step",
    fix="Use a lighter head, for example head='pool', or a layer with a smaller map",
)
EARLY_HEAVY_BRANCH = warning(
    "early-heavy-branch",
    why="A light classifier early on pulls the first layers towards features that are linear in the classes; with a large "
    "weight that never falls this is known to cost the final output up to several points",
    fix="Lower the weight or let it fall, weight='linear(0.3, 0)', tap deeper, or use a deeper head such as 'cnds'",
)
BRANCH_WITHOUT_LOSS = error(
    "branch-without-loss",
    why="The head is computed and never trained; the objective refuses such outputs",
    fix="Use the plan that the net was attached with: Objective(net.plan)",
)
LOSS_WITHOUT_BRANCH = error(
    "loss-without-branch",
    why="The objective waits for an output that never comes",
    fix="Use the plan that the net was attached with: Objective(net.plan)",
)
WEIGHT_ALWAYS_ZERO = warning(
    "weight-always-zero",
    why="The head is paid for in every step and teaches the trunk nothing; fine as a control, not as supervision",
    fix="Give it a weight, for example weight=0.3, or leave the branch out",
)
WEIGHT_UNUSABLE = error(
    "weight-unusable",
    why="A weight that is negative trains the branch to be wrong, one that is not a number makes the loss NaN",
    fix="Use a schedule that gives finite numbers from 0 up for every progress in [0, 1]",
)
GRADIENT_UNUSABLE = error(
    "gradient-unusable",
    why="It is called in every backward pass: the first one stops, or makes every weight below the branch NaN",
    fix="Return what goes down, a finite tensor of the shape of above and branch; for example: return above + branch",
)


def pricing(plan: Plan) -> Iterator[Finding]:
    """Branches that cost more than the trunk though no method has them so, and light heads early on with a heavy weight."""
    for b in plan.branches:
        dearer = [
            f"{millions(own)} {word} to the model's {millions(trunk)}"
            for own, trunk, word in ((b.params, plan.params, "parameters"), (b.flops, plan.flops, "FLOPs"))
            if own > trunk > 0
        ]
        if dearer and not _is_dear_by_design(plan, b):
            yield DEAR_BRANCH.found(branch(b.name), f"its head '{heads.show(b.head)}' has {' and '.join(dearer)}")
        if _is_early_and_heavy(b):
            what = f"a light head '{heads.show(b.head)}' at depth {b.depth:.0%} has the constant weight {b.weight(0):g}"
            yield EARLY_HEAVY_BRANCH.found(branch(b.name), what)


def _is_dear_by_design(plan: Plan, b: Branch) -> bool:
    """Whether the plan's method itself brings this head, or it is a whole peer network."""
    known = heads.describe(b.head)
    if b.layer == INPUT and known.whole:
        return True
    try:
        method = methods.get(plan.method)
    except ConfigError:  # a plan of another version
        return False
    return (known.large and b.head == method.head) or (known.fitted and method.arrange is not None)


def _is_early_and_heavy(b: Branch) -> bool:
    if isinstance(b.weight, schedules.adaptive):  # 1 is only where it starts
        return False
    try:
        weights = set(values_of(b.weight))
    except Exception:  # said elsewhere
        return False
    undamped = b.gradient == gradients.ADD
    return heads.describe(b.head).light and undamped and b.depth < EARLY and len(weights) == 1 and min(weights) >= HEAVY


def naming(plan: Plan, objective: Objective) -> Iterator[Finding]:
    """Branches without a loss, and losses without a branch."""
    used = (output.partition("/")[0] for e in objective.edges for output in (e.source, e.target))
    sources = [name for name in dict.fromkeys(used) if name not in RESERVED]
    if GATE in plan.names and any(ENSEMBLE in (e.source, e.target) for e in objective.edges):
        sources.append(GATE)
    for name in plan.names:
        if name not in sources:
            what = f"no loss of the objective uses its output; it has losses on {', '.join(['main', *sources])}"
            yield BRANCH_WITHOUT_LOSS.found(branch(name), what)
    for name in sources:
        if name not in plan.names:
            what = f"the objective has a loss on it, but the net has the branches {', '.join(plan.names) or '(none)'}"
            yield LOSS_WITHOUT_BRANCH.found(branch(name), what)


def weighing(objective: Objective) -> Iterator[Finding]:
    """Branches whose weight is zero throughout, negative, or no number."""
    for edge in objective.edges:
        if edge.name == "main":
            continue
        where, shown = branch(edge.source.partition("/")[0]), schedules.show(edge.weight)
        try:
            values = values_of(edge.weight)
        except Exception as error:
            yield WEIGHT_UNUSABLE.found(where, f"its weight {shown} fails: {type(error).__name__}: {error}")
            continue
        bad = [(p, v) for p, v in zip(STEPS, values, strict=True) if not math.isfinite(v) or v < 0]
        if bad:
            yield WEIGHT_UNUSABLE.found(where, f"its weight {shown} is {bad[0][1]:g} at progress {bad[0][0]:g}")
        elif not any(values):
            yield WEIGHT_ALWAYS_ZERO.found(where, f"its weight {shown} is 0 from beginning to end")


def values_of(weight: Callable[[float], float]) -> list[float]:
    """A weight over the training, asked of a copy: a schedule of the user's may count its calls."""
    own = copied(weight)
    return [float(own(p)) for p in STEPS]


def passing(setup: Setup, plan: Plan) -> Iterator[Finding]:
    """Gradient rules of the user's that fail or give no number, and factors that turn a gradient round."""
    for b in plan.branches:
        where, rule = branch(b.name), f"its gradient rule {b.gradient!r}"
        try:
            factors = [(p, b.gradient.factor(p, 1)) for p in STEPS]
            if type(b.gradient) not in gradients.RULES.values():
                yield from _tried(setup, b)
        except Exception as error:
            said = str(error) if isinstance(error, DeepsupError) else f"{rule} fails: {type(error).__name__}: {error}"
            yield GRADIENT_UNUSABLE.found(where, said)
            continue
        bad = [(p, f) for p, f in factors if not math.isfinite(f) or f < 0]
        if bad and not math.isfinite(bad[0][1]):
            fix = "Use a factor that is a finite number for every progress in [0, 1]"
            what = f"{rule} has the factor {bad[0][1]:g} at progress {bad[0][0]:g}"
            yield GRADIENT_UNUSABLE.found(where, what, fix=fix)
        elif bad:
            what = f"{rule} turns the gradient round: its factor is {bad[0][1]:g} at progress {bad[0][0]:g}"
            why = "The trunk unlearns what the head learns; meant in adversarial training only"
            fix = "Use a factor from 0 up, for example gradient='scale(0.5)'"
            yield GRADIENT_UNUSABLE.found(where, what, why=why, fix=fix, severity=WARNING)


def _tried(setup: Setup, b: Branch) -> Iterator[Finding]:
    """Call a rule once, as a backward pass would, on two random gradients of its activation's shape."""
    device = next((p.device for p in setup.core.parameters()), torch.device("cpu"))
    source, rule = torch.Generator().manual_seed(0), copied(b.gradient)
    above, sent = (torch.randn(2, *b.feature.shape, generator=source).to(device) for _ in range(2))
    with untouched(setup.net or setup.core), torch.no_grad():
        result = rule(above, sent, torch.tensor(rule.factor(0.5, 1)))
    if not isinstance(result, torch.Tensor) or result.shape != above.shape:
        given = (
            f"a tensor of shape {tuple(result.shape)}" if isinstance(result, torch.Tensor) else type(result).__name__
        )
        yield GRADIENT_UNUSABLE.found(branch(b.name), f"its gradient rule {rule!r} returned {given}")
    elif not bool(torch.isfinite(result).all()):
        what = f"its gradient rule {rule!r} gives NaN or infinite numbers for two finite gradients"
        yield GRADIENT_UNUSABLE.found(branch(b.name), what)
