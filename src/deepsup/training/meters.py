"""Sums over a run's steps: mean losses, the watch for NaN and infinity, conflicts of gradients, and time."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from deepsup.errors import NonFiniteError
from deepsup.evaluation.devices import gathered, summed
from deepsup.settings.training import LogConfig
from deepsup.supervision.attaching import is_supervised, unwrap
from deepsup.supervision.conflict_meter import ConflictMeter, parameter_conflicts, summarise
from deepsup.supervision.loss_terms import Terms
from deepsup.supervision.parameter_groups import REMEDY, too_fast

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class LossMeter:
    """The total and the labelled parts of the loss, summed over an epoch, and when each was first not finite.

    A part may come and go: it counts over the samples for which it was there. Everything stays on the device until
    someone asks, so that a step on a GPU never waits for the host.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        # On a CPU looking costs nothing. Several processes must stop together, or they would wait for one another forever.
        self._look_always = fabric.device.type == "cpu" and fabric.world_size == 1
        self.names: tuple[str, ...] = ()
        self._sums = self._first = torch.zeros(0, device=fabric.device)
        self._counts: list[int] = []

    def reset(self) -> None:
        """Begin a new epoch."""
        self._sums = torch.zeros_like(self._sums)
        self._counts = [0] * len(self.names)

    def add(self, terms: Terms, samples: int, *, step: int) -> Tensor:
        """Count one step; returns its values (total first, then the parts) as one vector on the device."""
        names = ("total", *terms.parts)
        values = torch.stack([terms.total.detach().float(), *(p.detach().float() for p in terms.parts.values())])
        whole = values
        if names != self.names:
            self._admit(names)
            places = [self.names.index(name) for name in names]
            whole = torch.zeros_like(self._sums).index_copy(0, torch.tensor(places, device=values.device), values)
        self._sums = self._sums + whole * samples
        held = zip(self._counts, self.names, strict=True)
        self._counts = [n + samples if name in names else n for n, name in held]
        idle = [i for i, name in enumerate(self.names) if _is_idle(terms, name)]
        finite = whole.isfinite()
        if idle:
            finite = finite.index_fill(0, torch.tensor(idle, device=whole.device), True)
        self._first = torch.minimum(self._first, torch.where(finite, math.inf, float(step)))
        if self._look_always:
            self.check()
        return values

    def _admit(self, names: tuple[str, ...]) -> None:
        """Make room for parts that were not there before."""
        new = [name for name in names if name not in self.names]
        self.names += tuple(new)
        self._sums = torch.cat([self._sums, self._sums.new_zeros(len(new))])
        self._first = torch.cat([self._first, self._first.new_full((len(new),), math.inf)])
        self._counts += [0] * len(new)

    def check(self) -> None:
        """Raise `NonFiniteError` naming the step and the part of the loss that was the first to be NaN or infinite."""
        first: dict[str, float] = {}
        for share in gathered(self._fabric, dict(zip(self.names, self._first.tolist(), strict=True))):
            first |= {name: min(step, first.get(name, math.inf)) for name, step in share.items()}
        step = min(first.values(), default=math.inf)
        if math.isinf(step):
            return
        bad = [name for name, at in first.items() if at == step]
        parts = [name for name in bad if name != "total"] or bad
        raise NonFiniteError(
            f"the loss became NaN or infinite at step {int(step)}, first in {', '.join(map(_called, parts))}. Lower the "
            "learning rate or that term's weight, or add a warm-up; the last checkpoint holds the weights from before."
        )

    def means(self) -> dict[str, Any]:
        """Mean total and parts over all samples and processes since the last `reset`."""
        own = {n: (s, c) for n, s, c in zip(self.names, self._sums.tolist(), self._counts, strict=True) if c}
        shares = gathered(self._fabric, own)
        found = {
            name: sum(share[name][0] for share in shares if name in share)
            / sum(share[name][1] for share in shares if name in share)
            for name in dict.fromkeys(name for share in shares for name in share)
        }
        found = {name: mean for name, mean in found.items() if math.isfinite(mean)}  # of an idle branch it need not be
        return {"total": found.pop("total", None), "parts": found}

    def state(self) -> dict[str, Any]:
        """What this process has summed so far, as plain values."""
        return {"names": list(self.names), "sums": self._sums.tolist(), "counts": list(self._counts)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.names, self._counts = tuple(state["names"]), list(state["counts"])
        self._sums = torch.tensor(state["sums"], device=self._fabric.device)
        self._first = torch.full_like(self._sums, math.inf)


def _is_idle(terms: Terms, name: str) -> bool:
    """Whether a term is not in the sum: its weight is a number, and 0."""
    weight = terms.weights.get(name)
    return isinstance(weight, float) and weight == 0


def _called(name: str) -> str:
    """A part of the loss in a sentence."""
    own = {"main": "the main loss", "total": "the total"}
    return own.get(name, f"the term '{name}'" if "<-" in name else f"branch '{name}'")


def check_weights(net: nn.Module, *, step: int) -> None:
    """Raise `NonFiniteError` when a weight is NaN or infinite: the loss of the next step would be, too."""
    named = [(n, p) for n, p in net.named_parameters() if p.is_floating_point()]
    if not named:
        return
    finite = torch.stack([p.detach().isfinite().all() for _, p in named]).tolist()
    bad = [name for (name, _), good in zip(named, finite, strict=True) if not good]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise NonFiniteError(
            f"the weights became NaN or infinite by step {step}: {bad[0]}{more}. Lower the learning rate, or add a "
            "warm-up; the last checkpoint holds the weights from before."
        )


def explained(error: NonFiniteError, net: nn.Module, optimizer: Optimizer) -> NonFiniteError:
    """The error, and what the method needs of an optimiser that is too fast for it."""
    reason = too_fast(net, optimizer)
    return NonFiniteError(f"{error} {reason[:1].upper()}{reason[1:]}: {REMEDY}.") if reason else error


class Conflicts:
    """What a run's journal says about branches that pull with or against the rest, between two of its records.

    Measures inside its `with` alone; nothing for a plain net, or where `log` says so.
    """

    def __init__(self, net: nn.Module, log: LogConfig, fabric: Fabric) -> None:
        self._fabric, self._net = fabric, net
        branches = is_supervised(net) and bool(unwrap(net).taps)
        self._every = log.parameter_conflict if branches else 0
        self._measures = log.conflict and branches
        self._meter: ConflictMeter | None = None
        self._before: Tensor | None = None  # steps since the last record, from before the run was resumed
        self._samples: list[dict[str, Any]] = []

    def __enter__(self) -> Conflicts:
        self._meter = ConflictMeter(self._net) if self._measures else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._meter is not None:
            self._meter.close()

    def look(self, terms: Terms, *, step: int) -> None:
        """Before the backward of a step: the gradients of the shared parameters, where this step is to be sampled."""
        if self._every and step % self._every == 0:
            found = parameter_conflicts(self._net, terms)
            self._samples.append(
                {"step": step, **{n: {"cosine": c.cosine, "ratio": c.ratio} for n, c in found.items()}}
            )

    def step(self) -> None:
        """After the backward of a step."""
        if self._meter is not None:
            self._meter.step()

    def read(self) -> dict[str, Any] | None:
        """The content of a `conflict` record over the steps since the last one; None where there is nothing to say."""
        samples, self._samples = self._samples, []
        taken = None if self._meter is None else summed(self._fabric, self._take())
        self._before = None
        if (taken is None or not len(taken)) and not samples:
            return None
        found: dict[str, Any] = {"steps": 0 if taken is None else len(taken), "branches": {}}
        if taken is not None and self._meter is not None:
            found["branches"] = {n: c.to_dict() for n, c in summarise(self._meter.names, taken).items()}
        return {**found, "parameters": samples} if samples else found

    def _take(self) -> Tensor:
        assert self._meter is not None
        taken = self._meter.take()
        return taken if self._before is None else torch.cat([self._before.to(taken), taken])

    def state(self) -> dict[str, Any]:
        """The steps since the last record, as plain values."""
        if self._meter is not None:
            self._before = self._take()
        steps = [] if self._before is None else self._before.tolist()
        return {"steps": steps, "samples": list(self._samples)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self._before = torch.tensor(state["steps"], dtype=torch.float64) if state["steps"] else None
        self._samples = list(state["samples"])


class Stopwatch:
    """Training time, with validation and checkpoints left out, and the duration of a step."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.step_ms: list[float] = []
        self._running: float | None = None
        self._window: tuple[float, int] | None = None

    def start(self) -> None:
        """Let time count from now."""
        self._running = time.perf_counter()

    def stop(self) -> None:
        """Let time count no longer, and give up the window that is open."""
        if self._running is not None:
            self.seconds += time.perf_counter() - self._running
        self._running = self._window = None

    def mark(self, step: int) -> None:
        """Begin a window at a moment at which the device is idle."""
        self._window = (time.perf_counter(), step)

    def lap(self, step: int) -> None:
        """End a window at such a moment: the mean time of the steps in it is one sample of `step_ms`."""
        if self._window is not None and step > self._window[1]:
            began, since = self._window
            self.step_ms.append(1000 * (time.perf_counter() - began) / (step - since))
        self._window = None

    def median_ms(self, steps: int) -> float | None:
        """The median duration of a step in milliseconds; for a very short run, the mean."""
        if self.step_ms:
            return statistics.median(self.step_ms)
        return 1000 * self.seconds / steps if steps else None
