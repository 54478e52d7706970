"""Traps of what is around the model: DataParallel, DistributedDataParallel, torch.compile, taps without their net."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deepsup.doctor.findings import ERROR, Finding, branch, error, some, warning
from deepsup.doctor.forward_checks import is_reentrant, starved
from deepsup.doctor.patient import Setup
from deepsup.errors import AlreadyAttachedError, AttachError, CompiledModelError, DataParallelError
from deepsup.features import split_call
from deepsup.layers.taps import taps_on
from deepsup.layers.wrappers import clean
from deepsup.plans.plan import Plan
from deepsup.supervision.attaching import Supervised

DATA_PARALLEL = error(
    "data-parallel",
    why="It copies the model for every device on every call, and all copies would share one tap",
    fix="Use DistributedDataParallel, also on one machine: DistributedDataParallel(deepsup.attach(model, plan))",
    raised=DataParallelError,
)
COMPILED_BEFORE_ATTACH = error(
    "compiled-before-attach",
    why="PyTorch ignores hooks that come after compiling, so its branches would see nothing and train nothing",
    fix="Attach to the plain model first, then compile: torch.compile(deepsup.attach(model, plan))",
    raised=CompiledModelError,
)
WRAPPED_BEFORE_ATTACH = error(
    "wrapped-before-attach",
    why="Heads added now are not kept in step between the processes: they would drift apart without an error",
    fix="Attach first, then wrap: DistributedDataParallel(deepsup.attach(model, plan))",
    raised=AttachError,
)
HEAD_OUTSIDE_DDP = error(
    "head-outside-ddp",
    why="DistributedDataParallel averages only the parameters it was made with: these differ more between the processes with "
    "every step, and nothing says so",
    fix="Wrap what attach returned, once everything is in it: DistributedDataParallel(deepsup.attach(model, plan))",
)
UNUSED_PARAMETER_SEARCH = warning(
    "unused-parameter-search",
    why="Every parameter takes part in every step, also those of branches with weight 0, so walking the whole graph for unused "
    "ones costs time in each step and finds none",
    fix="Leave it out: DistributedDataParallel(net)",
)
UNUSED_PARAMETERS = error(
    "unused-parameters",
    why="DistributedDataParallel waits for their gradients and stops with an error in the second step",
    fix="Freeze them (requires_grad_(False)) before wrapping, or pass find_unused_parameters=True",
)
BARE_MODEL = error(
    "bare-model",
    why="The taps record only inside the net that attach returned: called by itself this model trains no branch",
    fix="Train the net that deepsup.attach returned (and compile or wrap that one), or take the taps off with deepsup.strip",
)
ALREADY_ATTACHED = error(
    "already-attached",
    why="A model takes one set of branches: attaching a second is refused",
    fix="Strip it first, model = deepsup.strip(net), then plan and attach again",
    raised=AlreadyAttachedError,
)


def wrapping(setup: Setup, *, wanted: bool) -> Iterator[Finding]:
    """Traps of the wrappers; `wanted`: branches are to be attached to this model."""
    this = f"this {type(setup.core).__name__}"
    if any(isinstance(m, nn.DataParallel) for m in setup.given.modules()):
        yield DATA_PARALLEL.found("model", f"nn.DataParallel wraps {this}")
    if setup.net is not None:
        if wanted:
            yield ALREADY_ATTACHED.found("model", f"{this} is supervised already, and other branches are asked for")
        yield from _distributed(setup.net, setup.ddp)
    elif taps_on(setup.given) and setup.ddp is not None:
        what = "DistributedDataParallel wraps the tapped model, not the net that attach returned, which has the heads"
        yield HEAD_OUTSIDE_DDP.found("model", what)
        yield from _clashing(setup.ddp)
    elif taps_on(setup.given):
        yield BARE_MODEL.found("model", f"{this} carries taps, but it is not the net that attach returned")
    elif wanted and (setup.ddp is not None or setup.sharded):
        what = f"{this} is wrapped for several processes before its branches are attached"
        yield WRAPPED_BEFORE_ATTACH.found("model", what)


def _distributed(net: Supervised, ddp: DistributedDataParallel | None) -> Iterator[Finding]:
    if ddp is None:
        return
    if not any(m is net for m in ddp.modules()):
        what = f"DistributedDataParallel wraps the model alone; the heads ({', '.join(net.heads)}) are outside"
        yield HEAD_OUTSIDE_DDP.found("model", what)
        yield from _clashing(ddp)
        return
    known = {id(p) for p in getattr(ddp, "_module_parameters", ddp.parameters())}  # when it was made
    for name, head in net.heads.items():
        if any(p.requires_grad and id(p) not in known for p in head.parameters()):
            what = "DistributedDataParallel was made before this head had these parameters"
            yield HEAD_OUTSIDE_DDP.found(branch(name), what)


def _clashing(ddp: DistributedDataParallel) -> Iterator[Finding]:
    if ddp.find_unused_parameters:
        what = "DistributedDataParallel was made with find_unused_parameters=True, and the heads run outside of it"
        why = "It takes the layers that only heads lead to for unused and stops: 'marked as ready only once'"
        yield UNUSED_PARAMETER_SEARCH.found("model", what, why=why, severity=ERROR)


def compiled(setup: Setup, plan: Plan | None, *, wanted: bool) -> Iterator[Finding]:
    """Layers to be tapped that are compiled, inside something compiled, or around it."""
    if setup.net is not None or not wanted:
        return
    if "" in setup.compiled:
        what = f"this {type(setup.core).__name__} was compiled before its branches are attached"
        yield COMPILED_BEFORE_ATTACH.found("model", what)
        return
    for b in plan.branches if plan else ():
        around = [c for c in setup.compiled if f"{clean(split_call(b.layer)[0])}.".startswith(f"{c}.")]
        if around:
            what = f"layer '{around[0]}' was compiled before branch '{b.name}' is attached"
            yield COMPILED_BEFORE_ATTACH.found(f"layer '{b.layer}'", what)


def distributed(setup: Setup, values: list[Tensor]) -> Iterator[Finding]:
    """DistributedDataParallel that will wait for gradients which never come, or looks for what is not there."""
    ddp = setup.ddp
    if ddp is None or not values:
        return
    known = {id(p) for p in ddp.parameters()}
    missing = [n for n, p in starved(setup.net or setup.core, values).items() if id(p) in known]
    if missing and not ddp.find_unused_parameters and not ddp.static_graph and not is_reentrant(values):
        yield UNUSED_PARAMETERS.found("model", f"no loss reaches {some(missing)}")
    if ddp.find_unused_parameters and not missing and any(m is setup.net for m in ddp.modules()):
        what = "DistributedDataParallel was made with find_unused_parameters=True"
        yield UNUSED_PARAMETER_SEARCH.found("model", what)
