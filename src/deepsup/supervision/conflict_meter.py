"""Do the losses fight? What a branch sends into the trunk against what comes down from everything above it.

    meter = ds.ConflictMeter(net)
    for x, y in loader:
        objective(net(x), y, progress=p).total.backward()
        meter.step()                       # keeps four numbers a branch on the device; no extra backward
    print(meter)

Both gradients are those of the tapped activation, in the very backward that trains: `branch` with the branch's
weight in it, `above` from the main loss and all branches higher up, so that nested branches are measured rightly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from deepsup.errors import AttachError, ConfigError
from deepsup.gradients import STATISTICS, dot, new_slot
from deepsup.specs import require
from deepsup.supervision.attaching import Supervised, unwrap
from deepsup.supervision.loss_terms import Terms
from deepsup.terms import ENSEMBLE

NOTHING = "no step in which both gradients met, in one backward, finite and large enough"
TINY = 1e-34  # squared lengths below come from products that underflow in float32: nothing true can be said of them


@dataclass(frozen=True)
class Conflict:
    """One branch over `steps` steps, of those in which both gradients reached its layer and were finite.

    None where there was none: a weight of 0, a frozen trunk, losses that went down one by one, or a gradient below 1e-17.
    """

    cosine: float | None  # mean cosine between branch and above: 1 pulls together, below 0 pulls against
    ratio: float | None  # |branch| / |above|, geometric mean
    kept: float | None  # mean of <above, what goes down> / |above|²: 1 unhurt, below 1 it takes away, below 0 reversed
    share: float | None  # of these steps, those with a cosine below 0
    steps: int
    met: int = 0  # of these steps, those in which both gradients were there; what the four numbers above are over

    def to_dict(self) -> dict[str, float | None]:
        """For a journal's `conflict` record."""
        return {name: value for name, value in asdict(self).items() if name != "steps"}


class ConflictMeter:
    """Measures in every backward from now on, until `close` (or the end of a `with`).

    `net` is what `attach` returned, or a wrapper around it; make the meter before the first compiled call and after
    moving the net to its device. A branch whose layer uses its output itself (`Branch.read_inside`) is not measured.
    Raises `AttachError` for a net without branches, or one that another meter measures already.
    """

    def __init__(self, net: nn.Module) -> None:
        target = unwrap(net)
        if not target.taps:
            raise AttachError("there is no branch on this net whose gradient could be in conflict. Attach some first.")
        if any(tap.slot is not None for tap in target.taps.values()):
            raise AttachError("another meter measures this net already. Close it first: meter.close().")
        self._taps = target.taps
        self._slots = {name: new_slot(_device(target, name)) for name in target.taps}
        self._taken: list[Tensor] = []
        self.unmeasured = tuple(b.name for b in target.plan.branches if b.read_inside)
        for name, tap in target.taps.items():
            tap.slot = None if name in self.unmeasured else self._slots[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The branches, in the order of the numbers that `take` gives."""
        return tuple(self._slots)

    def step(self) -> None:
        """Keep what the backwards since the last call measured, as one step; on the device, without waiting for it.

        Raises `AttachError` when the meter was closed, or the net stripped.
        """
        if not any(self._taps[name].slot is slot for name, slot in self._slots.items() if name not in self.unmeasured):
            if len(self.unmeasured) < len(self._slots):
                raise AttachError("this meter is closed, or its net was stripped: it measures nothing. Make a new one.")
        slots = self._slots.values()
        self._taken.append(torch.stack([torch.zeros_like(s) if s.grad is None else s.grad for s in slots]).detach())
        for slot in slots:
            slot.grad = None

    def take(self) -> Tensor:
        """The raw numbers of all steps since the last `take`, (steps, branches, 4): inner products that may be summed
        over processes before `summarise` reads them."""
        taken = torch.stack(self._taken) if self._taken else torch.zeros(0, len(self.names), STATISTICS)
        self._taken = []
        return taken

    def _peek(self) -> Tensor:
        taken = self.take()
        self._taken = list(taken)
        return taken

    def read(self) -> dict[str, Conflict]:
        """Every branch over all steps so far; they stay."""
        return summarise(self.names, self._peek())

    def steps(self) -> dict[str, list[Conflict]]:
        """Every branch step by step, for a timeline; they stay."""
        single = [summarise(self.names, row[None]) for row in self._peek().cpu()]
        return {name: [row[name] for row in single] for name in self.names}

    def close(self) -> None:
        """Stop measuring; the net is as it was before."""
        for name, tap in self._taps.items():
            if tap.slot is self._slots[name]:
                tap.slot = None

    def __enter__(self) -> ConflictMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return table(self.read(), unmeasured=self.unmeasured)


def summarise(names: Sequence[str], taken: Tensor) -> dict[str, Conflict]:
    """Raw numbers (steps, branches, 4) as one `Conflict` a branch; one transfer from the device."""
    rows: list[list[list[float]]] = taken.double().cpu().transpose(0, 1).tolist()
    if not rows:
        rows = [[] for _ in names]
    return {name: _summary(row) for name, row in zip(names, rows, strict=True)}


def _summary(steps: Iterable[Sequence[float]]) -> Conflict:
    rows = list(steps)
    met = [r for r in rows if all(map(math.isfinite, r)) and r[1] > TINY and r[2] > TINY]
    if not met:
        return Conflict(None, None, None, None, len(rows))
    cosines = [max(-1.0, min(1.0, both / math.sqrt(above * branch))) for both, above, branch, _ in met]
    ratio = math.exp(sum(math.log(branch / above) / 2 for _, above, branch, _ in met) / len(met))
    kept = sum(along / above for _, above, _, along in met) / len(met)
    return Conflict(
        cosine=sum(cosines) / len(met),
        ratio=ratio,
        kept=kept,
        share=sum(c < 0 for c in cosines) / len(met),
        steps=len(rows),
        met=len(met),
    )


def table(found: Mapping[str, Conflict], *, unmeasured: Sequence[str] = ()) -> str:
    """What a meter prints."""
    steps = max((c.steps for c in found.values()), default=0)
    width = max(len("branch"), *map(len, found))
    lines = [
        f"gradients of the branches against what comes from above, {steps} steps",
        f"  {'branch':<{width}}  cosine  in conflict  ratio   kept",
    ]
    for name, c in found.items():
        if c.cosine is None or c.ratio is None or c.kept is None or c.share is None:
            why = "its layer uses its output itself, tap another" if name in unmeasured else NOTHING
            lines.append(f"  {name:<{width}}  not measured: {why}")
        else:
            lines.append(f"  {name:<{width}}  {c.cosine:>+6.2f}  {c.share:>11.0%}  {c.ratio:>5.2g}  {c.kept:>5.2f}")
    return "\n".join(lines)


def parameter_conflicts(net: nn.Module, terms: Terms) -> dict[str, Conflict]:
    """The same question asked of the parameters that the branch shares with everything above it.

    `terms` is what the objective returned, before its backward. The exact way: one backward a loss, so use it on some
    steps only. Each loss is weighted as it trains and goes down alone, so of the rules at the taps only those with a
    fixed factor are felt. Nothing is written into `.grad`. In several processes each sees its own batch.
    Raises `ConfigError` for parameters that are sharded over processes.
    """
    target = unwrap(net)
    _refuse_sharded(target.model)
    parameters = [p for p in target.model.parameters() if p.requires_grad]
    losses = _by_output(terms)
    names = [name for name in target.plan.names if name in losses]
    above = _gradient(losses["main"], parameters)
    found: dict[str, Conflict] = {}
    for name in reversed(names):
        branch = _gradient(losses[name], parameters)
        shared = [i for i, (a, b) in enumerate(zip(above, branch, strict=True)) if a is not None and b is not None]
        products = [_products(above[i], branch[i]) for i in shared]
        found[name] = _summary([torch.stack(products).sum(0).tolist()] if products else [])
        above = [a if b is None else b if a is None else a + b for a, b in zip(above, branch, strict=True)]
    return {name: found[name] for name in names}


def _by_output(terms: Terms) -> dict[str, Tensor]:
    """All weighted terms of each output: with the labels, and what it learns from others; mixtures count as main's."""
    found: dict[str, Tensor] = {}
    for name, part in terms.parts.items():
        source = name.partition("<-")[0].partition("/")[0]
        source = "main" if source == ENSEMBLE else source
        value = terms.weights[name] * part
        found[source] = found[source] + value if source in found else value
    return found


def _refuse_sharded(model: nn.Module) -> None:
    if any(hasattr(p, "to_local") for p in model.parameters()):
        raise ConfigError(
            "the parameters are sharded over processes (FSDP2), where the gradient of one loss alone cannot be had. Measure at "
            "the activations: ConflictMeter works there."
        )


def _gradient(value: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    if not value.requires_grad:
        return [None] * len(parameters)
    return list(torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True))


def _products(above: Any, branch: Any) -> Tensor:
    both, aa = dot(above, branch), dot(above, above)
    return torch.stack([both, aa, dot(branch, branch), aa + both]).double()


def jacobian_backward(net: nn.Module, terms: Terms, aggregator: Any) -> Tensor | None:
    """In place of `terms.total.backward()`: the trunk gets what an aggregator of torchjd makes of every loss's gradient.

        >>> from torchjd.aggregation import UPGrad
        >>> ds.jacobian_backward(net, objective(net(x), y), UPGrad())

    The full Jacobian: one row a loss (main first, then the branches of the plan), weighted as it trains, one column a
    trainable parameter of the model; one backward and one gradient's memory a loss. Heads get their plain gradient.
    Returns the weights of the rows, where the aggregator has such. For cheaper rules at the taps see `gradients`.
    Raises `MissingPackageError` without torchjd, `ConfigError` in several processes, between which nothing would be
    averaged.
    """
    autojac = require("torchjd.autojac", purpose="jacobian_backward", install="deepsup[conflict]")
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if several and torch.distributed.get_world_size() > 1:
        raise ConfigError(
            "jacobian_backward would leave every process with gradients of its own, because it goes past the averaging of "
            "DistributedDataParallel. Train in one process, or use a rule at the taps: plan(gradient='project')."
        )
    target = unwrap(net)
    _refuse_sharded(target.model)
    losses = [terms.weights[name] * part for name, part in terms.parts.items() if part.requires_grad]
    trunk = _reached([p for p in target.model.parameters() if p.requires_grad], losses)
    held = {id(p) for p in trunk}
    heads = [p for p in target.heads.parameters() if p.requires_grad and id(p) not in held]
    if heads:
        terms.total.backward(inputs=heads, retain_graph=True)  # type: ignore[no-untyped-call]
    if not trunk:
        return None
    # One loss at a time: forks and compiled nets cannot be batched.
    autojac.backward(losses, inputs=trunk, parallel_chunk_size=1)
    weights: Tensor | None = autojac.jac_to_grad(trunk, aggregator)
    return weights


def _reached(parameters: list[nn.Parameter], losses: list[Tensor]) -> list[nn.Parameter]:
    """Those that some loss depends on: the others must keep no gradient, or weight decay would move them."""
    todo: list[Any] = [loss.grad_fn for loss in losses]
    seen: set[Any] = set()
    leaves: set[int] = {id(loss) for loss in losses}
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves.add(id(getattr(node, "variable", None)))
            todo += [parent for parent, _ in node.next_functions]
    return [p for p in parameters if id(p) in leaves]


def _device(net: Supervised, name: str) -> torch.device:
    parameter = next(net.heads[name].parameters(), None)
    if parameter is None:
        parameter = next(net.model.parameters())
    return parameter.device
