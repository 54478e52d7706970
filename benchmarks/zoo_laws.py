"""What deepsup promises, tried on one model: see `examine`."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from zoo_models import BATCH, Model, PlainError, loss, seeded

import deepsup as ds
from deepsup.errors import ConfigError, DeepsupError
from deepsup.features import tensors_in
from deepsup.files import state_sha256
from deepsup.layers.taps import taps_on

# Two depths, and others for models in which both mean one layer; at last one alone, for models with a single tap point.
DEPTHS = (("33%", "67%"), ("25%", "75%"), ("10%", "90%"), ("0%", "100%"), ("50%",))
STEPS = 2


class BrokenLaw(Exception):
    """A promise that does not hold: which, and where."""


class Pooled(nn.Module):
    """A head for any activation: the mean over everything but channels, one linear layer, dropout."""

    def __init__(self, feature: ds.Feature) -> None:
        super().__init__()
        self.dims = tuple(i for i, letter in enumerate(feature.layout) if letter not in "NC")
        self.fc = nn.Linear(feature.channels, 4)
        self.drop = nn.Dropout(0.25)
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.drop(self.fc(x.mean(self.dims) if self.dims else x))


def head(feature: ds.Feature, classes: int) -> nn.Module:
    """The builder of `Pooled`."""
    return Pooled(feature)


@dataclass
class Findings:
    """What was found on the way, also when a law broke."""

    plan: ds.Plan | None = None
    doubts: list[str] = field(default_factory=list)


def require(holds: bool, law: str, what: str) -> None:
    """Raise `BrokenLaw` unless `holds`."""
    if not holds:
        raise BrokenLaw(f"{law}: {what}")


def examine(model: Model, findings: Findings) -> None:
    """Plan, attach, train and strip one model and hold every law against it.

    Raises `DeepsupError` where deepsup refuses the model, `PlainError` where the model itself cannot be trained
    twice alike, `BrokenLaw` where a promise does not hold.
    """
    net = model.build()
    before = state_of(net)
    plan = findings.plan = planned(model, net)
    check_same_state(before, state_of(net), "no trace")
    expected = outputs_of(model, net)
    require(same(expected, outputs_of(model, model.build())), "no trace", "planning changed what the model answers")
    before = state_of(net)
    check_strip(model, net, plan, before, expected)
    supervised = ds.attach(net, plan)
    check_eval(model, supervised, expected)
    check_batch_axis(model, supervised)
    check_gradients(model, supervised)
    findings.doubts += doubtful_layouts(model, net, plan)
    check_step(model, supervised)
    ds.strip(supervised)
    require(state_of(net).hooks == before.hooks, "strip", "hooks are left after training")
    require(list(net.state_dict()) == before.keys, "strip", "keys changed in training")
    plain_zero, zero = trained(model, None), trained(model, plan)
    if plain_zero != zero:
        if trained(model, None) != plain_zero:
            raise PlainError("nondeterministic: two plain runs from one seed differ")
        raise BrokenLaw(f"zero: {differences(model, plan)}")
    require(trained(model, plan, metered=True) == zero, "zero", "the conflict meter changes what is trained")


@dataclass
class State:
    """Everything about a model that deepsup must leave as it is."""

    digest: str
    keys: list[str]
    flags: list[bool]
    parameters: list[tuple[str, int, bool]]
    hooks: list[Any]
    attributes: list[list[str]]
    streams: str


def state_of(net: nn.Module) -> State:
    """The state of a model and of the random streams."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return State(
        digest=state_sha256(net),
        keys=list(net.state_dict()),
        flags=[m.training for m in net.modules()],
        parameters=[(n, id(p), p.requires_grad) for n, p in net.named_parameters()],
        hooks=[list(getattr(m, t).items()) for m in net.modules() for t in tables],
        attributes=[sorted(vars(m)) for m in net.modules()],
        streams=streams(),
    )


def check_same_state(before: State, after: State, law: str) -> None:
    """Raise `BrokenLaw` naming the part that changed."""
    for part in vars(before):
        require(getattr(before, part) == getattr(after, part), law, f"{part} changed")


def streams() -> str:
    """The random streams as text."""
    return f"{hash(torch.get_rng_state().numpy().tobytes())} {hash(random.getstate())}"


def planned(model: Model, net: nn.Module) -> ds.Plan:
    """The plan at two depths; raises the refusal of the first pair when all are refused."""
    refusal: DeepsupError | None = None
    for at in DEPTHS:
        try:
            return ds.plan(
                net,
                model.sample(BATCH, 0),
                at=at,
                head=head,
                branch_loss=loss,
                weight=0.3,
                main=model.main,
                loss="cross_entropy",
            )
        except ConfigError as error:  # both mean one layer
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def outputs_of(model: Model, net: nn.Module) -> list[Tensor]:
    """Every tensor that the model gives out in eval mode."""
    training = [(m, m.training) for m in net.modules()]
    net.eval()
    seeded(3)
    with torch.no_grad():
        found = [t.clone() for t in tensors_in(model.call(net, model.sample(BATCH, 5))).values()]
    for module, flag in training:
        module.training = flag
    seeded(4)
    return found


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Bit for bit; a NaN equals itself."""
    return len(one) == len(other) and all(
        a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        for a, b in zip(one, other, strict=True)
    )


def check_strip(model: Model, net: nn.Module, plan: ds.Plan, before: State, expected: list[Tensor]) -> None:
    """The same object with the same keys, bytes, flags, hooks and outputs."""
    stripped = ds.strip(ds.attach(net, plan))
    require(stripped is net, "strip", "another object came back")
    require(not taps_on(net), "strip", "taps are left")
    check_same_state(before, state_of(net), "strip")
    require(same(expected, outputs_of(model, net)), "strip", "outputs changed")


def check_eval(model: Model, net: ds.Supervised, expected: list[Tensor]) -> None:
    """In eval mode the outputs are the plain model's and no head runs."""
    runs = [h.runs for _, h in net.heads.items()]
    require(same(expected, outputs_of(model, net)), "eval", "outputs differ from the plain model's")
    require(runs == [h.runs for _, h in net.heads.items()], "eval", "a head ran")


def check_batch_axis(model: Model, net: ds.Supervised) -> None:
    """Each branch gives one answer a sample, which depends on that sample alone (in eval mode, three samples)."""
    settle(model, net)
    net.eval()
    x = model.sample(3, 11)
    image: Tensor = (next(iter(x.values())) if isinstance(x, dict) else x).requires_grad_()
    with ds.supervising(net):
        seeded(5)
        answers = model.call(net, x).aux
    net.train()
    for name, answer in answers.items():
        require(len(answer) == 3, "batch", f"branch {name!r} answers {len(answer)} times for 3 samples")
        require(answer.requires_grad, "gradient", f"branch {name!r} has no graph")
        (slope,) = torch.autograd.grad(answer[1].sum(), image, retain_graph=True, allow_unused=True)
        seen = slope is not None and bool(slope[1].any())
        require(seen, "batch", f"branch {name!r} does not see its own sample")
        require(not slope[[0, 2]].any(), "batch", f"branch {name!r} mixes samples")


def settle(model: Model, net: nn.Module) -> None:
    """Give batch normalisation the statistics of one batch: fresh ones let signals of deep models vanish in eval mode."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.momentum = 1.0
    with torch.no_grad():
        seeded(12)
        model.call(net, model.sample(BATCH, 12))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def check_gradients(model: Model, net: ds.Supervised) -> None:
    """Each branch alone sends a gradient into its whole head and into the trunk below, and none into what lies above."""
    plan = net.plan
    seeded(6)
    terms = ds.Objective(plan, loss=loss)(model.call(net, model.sample(BATCH, 1)), None)
    owned = {n: p for n, p in net.model.named_parameters() if p.requires_grad}
    for branch in plan.branches:
        fc = net.heads[branch.name].fc
        grads = torch.autograd.grad(
            terms.parts[branch.name], [*owned.values(), *fc.parameters()], allow_unused=True, retain_graph=True
        )
        lit = [g is not None and bool(g.any()) for g in grads]
        require(all(lit[len(owned) :]), "gradient", f"the head of {branch.name!r} gets none")
        require(any(lit[: len(owned)]), "gradient", f"nothing below {branch.name!r} gets one")


def check_step(model: Model, net: ds.Supervised) -> None:
    """One step of training changes the trunk and every head, and everything stays finite."""
    optimizer = torch.optim.SGD(ds.parameter_groups(net, lr=1e-3))
    start = {n: p.detach().clone() for n, p in net.heads.named_parameters()}
    trunk = state_sha256(net.model)
    seeded(8)
    terms = ds.Objective(net.plan, loss=loss)(model.call(net, model.sample(BATCH, 2)), None)
    require(bool(torch.isfinite(terms.total)), "step", "the loss is not finite")
    terms.total.backward()
    optimizer.step()
    require(state_sha256(net.model) != trunk, "step", "the trunk did not change")
    moved = {n.split(".")[0] for n, p in net.heads.named_parameters() if not torch.equal(p, start[n])}
    require(len(moved) == len(net.heads), "step", f"only these heads changed: {sorted(moved)}")
    net.zero_grad()


def trained(model: Model, plan: ds.Plan | None, *, metered: bool = False) -> tuple[str, str]:
    """Digest of state and random streams after two steps: of the plain model, or with the plan's branches at weight 0."""
    net = run_steps(model, plan, metered=metered)
    return state_sha256(net), streams()


def run_steps(model: Model, plan: ds.Plan | None, *, metered: bool = False) -> nn.Module:
    """A fresh model after two steps, plain or with the plan's branches at weight 0."""
    net = model.build().train()
    chosen = None
    if plan is not None:
        zero = ds.schedules.constant(0.0)
        chosen = dataclasses.replace(plan, branches=tuple(dataclasses.replace(b, weight=zero) for b in plan.branches))
    main = (
        plan.main
        if plan
        else ds.plan(net, model.sample(BATCH, 0), method="none", main=model.main, loss="cross_entropy").main
    )
    seeded(9)
    whole = ds.attach(net, chosen) if chosen else net
    if metered:
        ds.ConflictMeter(whole)
    optimizer = torch.optim.SGD(whole.parameters(), lr=1e-3, weight_decay=1e-4)
    for step in range(STEPS):
        optimizer.zero_grad()
        output = model.call(whole, model.sample(BATCH, step))
        if chosen:
            total = ds.Objective(chosen, loss=loss)(output, None).total
        else:
            total = loss(ds.features.main_prediction(output, main))
        total.backward()
        optimizer.step()
    return net


def differences(model: Model, plan: ds.Plan) -> str:
    """Which entries of the state two steps at weight 0 change otherwise than two plain steps."""
    plain = run_steps(model, None).state_dict()
    rng = streams()
    zero = run_steps(model, plan).state_dict()
    keys = [k for k, v in plain.items() if isinstance(v, Tensor) and not same([v], [zero[k]])]
    found = f"{len(keys)} of {len(plain)} state entries differ ({', '.join(keys[:3])})" if keys else "the state agrees"
    return found + ("" if rng == streams() else "; the random streams differ")


# --- where the channels are, told by the layers themselves ----------------------------------------------------------

FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.modules.batchnorm._BatchNorm)


def doubtful_layouts(model: Model, net: nn.Module, plan: ds.Plan) -> list[str]:
    """Branches whose channels, by the last layer inside with an output of the same shape, lie on another axis.

    A convolution or batch normalisation has its channels on axis 1, a linear layer on the last, a layer normalisation
    where its width is.
    """
    axis: dict[tuple[int, ...], int] = {}
    found: dict[str, tuple[tuple[int, ...], int | None]] = {}
    with hooks(net, plan, axis, found), torch.no_grad():
        seeded(10)
        model.call(net, model.sample(BATCH, 3))
    doubts = []
    for branch in plan.branches:
        shape, channels = found[branch.layer]
        chosen = branch.feature.layout.index("C")
        if channels is not None and channels % len(shape) != chosen:
            doubts.append(f"{branch.layer} {branch.feature}: read as {branch.feature.layout}, channels on {channels}")
    return doubts


@contextmanager
def hooks(
    net: nn.Module,
    plan: ds.Plan,
    axis: dict[tuple[int, ...], int],
    found: dict[str, tuple[tuple[int, ...], int | None]],
) -> Iterator[None]:
    """Note the channel axis of every layer with weights by shape, and what is known of the shape a branch reads."""
    picks = {b.layer: b.pick for b in plan.branches}
    handles = []

    def see(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor) and isinstance(module, (*FIRST, nn.Linear, nn.LayerNorm)):
            shape = tuple(output.shape)
            width = module.normalized_shape[-1] if isinstance(module, nn.LayerNorm) else None
            first = isinstance(module, FIRST) or (width is not None and width != shape[-1])  # LayerNorm2d and its like
            axis[shape] = 1 if first or (width == shape[1] and output.ndim == 4) else -1
        if name in picks:
            shape = tuple(ds.features.picked(output, picks[name]).shape)
            found[name] = (shape, axis.get(shape))

    for name, module in net.named_modules():
        handles.append(module.register_forward_hook(lambda m, a, out, name=name: see(name, m, out)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
