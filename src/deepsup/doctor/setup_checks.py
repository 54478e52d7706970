"""What the doctor sees without running anything: wrappers, compiled parts, optimiser, weights and costs.

`Setup` finds the supervised net and the user's model inside whatever was given; `opened` runs them without their
wrappers and leaves everything as it was.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from deepsup import gradients, heads, methods, schedules
from deepsup.doctor.findings import ERROR, WARNING, Finding, finding
from deepsup.errors import ConfigError, DeepsupError
from deepsup.layers.dry_run import untouched
from deepsup.layers.taps import Tap, taps_on
from deepsup.plans.plan import Branch, Plan, millions
from deepsup.plans.planning import RESERVED
from deepsup.supervision.attaching import Supervised
from deepsup.supervision.objectives import Objective
from deepsup.terms import ENSEMBLE, GATE, INPUT

WRAPPERS = (nn.DataParallel, DistributedDataParallel)
INNER = ("_orig_mod", "_forward_module", "_original_module")
EARLY, HEAVY = 1 / 3, 0.5
STEPS = [i / 100 for i in range(101)]  # of progress, at which schedules are looked at


@dataclass(frozen=True)
class Setup:
    """Who is who in the module that was given."""

    given: nn.Module
    net: Supervised | None
    core: nn.Module  # the user's model, without wrappers
    compiled: tuple[str, ...]  # layers of the plain model that are compiled; "" is the model itself
    sharded: bool

    @classmethod
    def of(cls, given: nn.Module) -> Setup:
        """Look through compile, DataParallel, DistributedDataParallel and Fabric wrappers."""
        net = next((m for m in given.modules() if isinstance(m, Supervised)), None)
        core = bare(net.model if net else given)
        wrapped = given if net is None else net.model
        compiled = [clean(n) for n, m in core.named_modules() if _is_compiled(m)]
        if wrapped is not core and any(_is_compiled(m) for m in _chain(wrapped)):
            compiled.insert(0, "")
        return cls(given, net, core, tuple(dict.fromkeys(compiled)), _is_sharded(given))

    @property
    def ddp(self) -> DistributedDataParallel | None:
        """The DistributedDataParallel in it, if there is one."""
        return next((m for m in self.given.modules() if isinstance(m, DistributedDataParallel)), None)


def _chain(module: nn.Module) -> Iterator[nn.Module]:
    """A module, what it wraps, what that wraps, and so on."""
    inner: nn.Module | None = module
    while inner is not None:
        yield inner
        names = ("module",) if isinstance(inner, WRAPPERS) else INNER
        inside = (getattr(inner, name, None) for name in names)
        inner = next((m for m in inside if isinstance(m, nn.Module)), None)


def bare(module: nn.Module) -> nn.Module:
    """The module inside all wrappers."""
    return list(_chain(module))[-1]


def clean(layer: str) -> str:
    """A layer's name without the part that `torch.compile` adds."""
    return ".".join(part for part in layer.split(".") if part != "_orig_mod")


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def _is_sharded(model: nn.Module) -> bool:
    return any(type(m).__name__.startswith(("FSDP", "FullyShardedDataParallel")) for m in model.modules())


@contextmanager
def opened(setup: Setup) -> Iterator[None]:
    """Inside, the net runs without wrappers, compilation or stray taps; afterwards all is as it was, also on exceptions."""
    root = setup.net or setup.core
    stray = [] if setup.net else [(m, dict(m._forward_hooks)) for m, _, _ in taps_on(setup.core)]
    with untouched(root):
        try:
            for module in list(root.modules()):
                if module._compiled_call_impl is not None:
                    module._compiled_call_impl = None
                for name, child in module.named_children():
                    if bare(child) is not child:
                        module._modules[name] = bare(child)
            for module, hooks in stray:
                for key in [k for k, hook in hooks.items() if isinstance(hook, Tap)]:
                    module._forward_hooks.pop(key, None)
            yield
        finally:
            for module, hooks in stray:
                module._forward_hooks.clear()
                module._forward_hooks.update(hooks)


def wrapping(setup: Setup, *, wanted: bool) -> Iterator[Finding]:
    """Traps of the wrappers; `wanted`: branches are to be attached to this model."""
    this = f"this {type(setup.core).__name__}"
    if any(isinstance(m, nn.DataParallel) for m in setup.given.modules()):
        yield finding("data-parallel", "model", f"nn.DataParallel wraps {this}")
    if setup.net is not None:
        if wanted:
            yield finding(
                "already-attached", "model", f"{this} is supervised already, and other branches are asked for"
            )
        yield from _distributed(setup.net, setup.ddp)
    elif taps_on(setup.given) and setup.ddp is not None:
        what = "DistributedDataParallel wraps the tapped model, not the net that attach returned, which has the heads"
        yield finding("head-outside-ddp", "model", what)
        yield from _clashing(setup.ddp)
    elif taps_on(setup.given):
        yield finding("bare-model", "model", f"{this} carries taps, but it is not the net that attach returned")
    elif wanted and (setup.ddp is not None or setup.sharded):
        what = f"{this} is wrapped for several processes before its branches are attached"
        yield finding("wrapped-before-attach", "model", what)


def _distributed(net: Supervised, ddp: DistributedDataParallel | None) -> Iterator[Finding]:
    if ddp is None:
        return
    if not any(m is net for m in ddp.modules()):
        what = f"DistributedDataParallel wraps the model alone; the heads ({', '.join(net.heads)}) are outside"
        yield finding("head-outside-ddp", "model", what)
        yield from _clashing(ddp)
        return
    known = {id(p) for p in getattr(ddp, "_module_parameters", ddp.parameters())}  # when it was made
    for name, head in net.heads.items():
        if any(p.requires_grad and id(p) not in known for p in head.parameters()):
            what = "DistributedDataParallel was made before this head had these parameters"
            yield finding("head-outside-ddp", branch(name), what)


def _clashing(ddp: DistributedDataParallel) -> Iterator[Finding]:
    if ddp.find_unused_parameters:
        what = "DistributedDataParallel was made with find_unused_parameters=True, and the heads run outside of it"
        why = "It takes the layers that only heads lead to for unused and stops: 'marked as ready only once'"
        yield finding("unused-parameter-search", "model", what, why=why, severity=ERROR)


def branch(name: str) -> str:
    """How a finding says where."""
    return f"branch '{name}'"


def compiled(setup: Setup, plan: Plan | None, *, wanted: bool) -> Iterator[Finding]:
    """Layers to be tapped that are compiled, inside something compiled, or around it."""
    if setup.net is not None or not wanted:
        return
    if "" in setup.compiled:
        what = f"this {type(setup.core).__name__} was compiled before its branches are attached"
        yield finding("compiled-before-attach", "model", what)
        return
    for b in plan.branches if plan else ():
        around = [c for c in setup.compiled if f"{clean(b.layer)}.".startswith(f"{c}.")]
        if around:
            what = f"layer '{around[0]}' was compiled before branch '{b.name}' is attached"
            yield finding("compiled-before-attach", f"layer '{b.layer}'", what)


def optimising(setup: Setup, plan: Plan | None, optimizer: Optimizer | None) -> Iterator[Finding]:
    """Parameters that the optimiser should hold and does not."""
    if optimizer is None:
        return
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = {clean(n): p for n, p in setup.core.named_parameters() if p.requires_grad}
    left = [n for n, p in trained.items() if id(p) not in held]
    if trained and len(left) == len(trained):
        what = f"this {type(optimizer).__name__} holds no parameter of the model"
        yield finding("foreign-optimizer", "optimizer", what)
    elif left:
        what = f"the optimiser lacks {len(left)} of {len(trained)} trainable parameters of the model ({left[0]}"
        yield finding("parameters-not-in-optimizer", "optimizer", f"{what}{', ...' if len(left) > 1 else ''})")
    if setup.net is None and plan is not None and plan.branches:
        what = f"it was made before the heads of {', '.join(plan.names)} are attached"
        yield finding("head-not-in-optimizer", "optimizer", what)
    for name, head in setup.net.heads.items() if setup.net else ():
        missing = [n for n, p in head.named_parameters() if p.requires_grad and id(p) not in held]
        if missing:
            what = f"the optimiser lacks {len(missing)} parameters of its head ({missing[0]}, ...)"
            yield finding("head-not-in-optimizer", branch(name), what)


def learning(setup: Setup, plan: Plan | None) -> Iterator[Finding]:
    """A model in which nothing can be trained; heads that can be, on a frozen trunk, are said elsewhere."""
    if any(p.requires_grad for p in (setup.net or setup.core).parameters()):
        return
    if setup.net is None and plan is not None and plan.branches:
        return
    every = [*(setup.net or setup.core).parameters()]
    what = f"nothing can be trained: all {len(every)} parameters are frozen" if every else "it has no parameter"
    yield finding("nothing-trainable", "model", what)


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
            yield finding("gradient-unusable", where, said)
            continue
        bad = [(p, f) for p, f in factors if not math.isfinite(f) or f < 0]
        if bad and not math.isfinite(bad[0][1]):
            fix = "Use a factor that is a finite number for every progress in [0, 1]"
            what = f"{rule} has the factor {bad[0][1]:g} at progress {bad[0][0]:g}"
            yield finding("gradient-unusable", where, what, fix=fix)
        elif bad:
            what = f"{rule} turns the gradient round: its factor is {bad[0][1]:g} at progress {bad[0][0]:g}"
            why = "The trunk unlearns what the head learns; meant in adversarial training only"
            fix = "Use a factor from 0 up, for example gradient='scale(0.5)'"
            yield finding("gradient-unusable", where, what, why=why, fix=fix, severity=WARNING)


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
        yield finding("gradient-unusable", branch(b.name), f"its gradient rule {rule!r} returned {given}")
    elif not bool(torch.isfinite(result).all()):
        what = f"its gradient rule {rule!r} gives NaN or infinite numbers for two finite gradients"
        yield finding("gradient-unusable", branch(b.name), what)


def copied(thing: Any) -> Any:
    """A copy of a loss or rule, which may have a state of its own; what cannot be copied is run itself."""
    try:
        return copy.deepcopy(thing)
    except Exception:
        return thing


def twin(objective: Objective) -> Objective:
    """An objective to try things on: whatever the losses and the objective remember stays as it is."""
    other = copy.copy(objective)
    other.memory = dict(objective.memory)
    other.edges = tuple(replace(edge, loss=copied(edge.loss)) for edge in objective.edges)
    return other


def weighing(objective: Objective) -> Iterator[Finding]:
    """Branches whose weight is zero throughout, negative, or no number."""
    for edge in objective.edges:
        if edge.name == "main":
            continue
        where, shown = branch(edge.source.partition("/")[0]), schedules.show(edge.weight)
        try:
            values = _values(edge.weight)
        except Exception as error:
            yield finding("weight-unusable", where, f"its weight {shown} fails: {type(error).__name__}: {error}")
            continue
        bad = [(p, v) for p, v in zip(STEPS, values, strict=True) if not math.isfinite(v) or v < 0]
        if bad:
            yield finding("weight-unusable", where, f"its weight {shown} is {bad[0][1]:g} at progress {bad[0][0]:g}")
        elif not any(values):
            yield finding("weight-always-zero", where, f"its weight {shown} is 0 from beginning to end")


def _values(weight: Callable[[float], float]) -> list[float]:
    """A weight over the training, asked of a copy: a schedule of the user's may count its calls."""
    own = copied(weight)
    return [float(own(p)) for p in STEPS]


def naming(plan: Plan, objective: Objective) -> Iterator[Finding]:
    """Branches without a loss, and losses without a branch."""
    used = (output.partition("/")[0] for e in objective.edges for output in (e.source, e.target))
    sources = [name for name in dict.fromkeys(used) if name not in RESERVED]
    sources += [GATE] * (GATE in plan.names and any(ENSEMBLE in (e.source, e.target) for e in objective.edges))
    for name in plan.names:
        if name not in sources:
            what = f"no loss of the objective uses its output; it has losses on {', '.join(['main', *sources])}"
            yield finding("branch-without-loss", branch(name), what)
    for name in sources:
        if name not in plan.names:
            what = f"the objective has a loss on it, but the net has the branches {', '.join(plan.names) or '(none)'}"
            yield finding("loss-without-branch", branch(name), what)


def pricing(plan: Plan) -> Iterator[Finding]:
    """Branches that cost more than the trunk though no method has them so, and light heads early on with a heavy weight."""
    for b in plan.branches:
        dearer = [
            f"{millions(own)} {word} to the model's {millions(trunk)}"
            for own, trunk, word in ((b.params, plan.params, "parameters"), (b.flops, plan.flops, "FLOPs"))
            if own > trunk > 0
        ]
        if dearer and not _is_dear_by_design(plan, b):
            yield finding("dear-branch", branch(b.name), f"its head '{heads.show(b.head)}' has {' and '.join(dearer)}")
        if _is_early_and_heavy(b):
            what = f"a light head '{heads.show(b.head)}' at depth {b.depth:.0%} has the constant weight {b.weight(0):g}"
            yield finding("early-heavy-branch", branch(b.name), what)


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
        weights = set(_values(b.weight))
    except Exception:  # said elsewhere
        return False
    undamped = b.gradient == gradients.ADD
    return heads.describe(b.head).light and undamped and b.depth < EARLY and len(weights) == 1 and min(weights) >= HEAVY


def precision(setup: Setup) -> Iterator[Finding]:
    """Weights in float16, and heads that cannot learn."""
    parts = [("model", setup.core), *([(branch(n), h) for n, h in setup.net.heads.items()] if setup.net else [])]
    half = [
        where for where, part in parts if any(p.dtype == torch.float16 and p.requires_grad for p in part.parameters())
    ]
    if half:
        yield finding("half-weights", ", ".join(half), "its trainable weights are float16")
    for name, head in setup.net.heads.items() if setup.net else ():
        own = list(head.parameters())
        if own and not any(p.requires_grad for p in own):
            yield finding("frozen-head", branch(name), "every parameter of its head is frozen")
