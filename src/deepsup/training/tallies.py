"""Sums over a run's steps: mean losses, the watch for NaN and infinity, conflicts of gradients, and time."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepsup.conflicts import ConflictMeter, parameter_conflicts, summarise
from deepsup.errors import NonFiniteError
from deepsup.objectives import Terms
from deepsup.supervised import is_supervised, unwrap

from .configs import LogConfig
from .engines import least, summed

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Tally:
    """The total and the labelled parts of the loss, summed over an epoch, and when each was first not finite.

    Everything stays on the device until someone asks, so that a step on a GPU never waits for the host.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        # On a CPU looking costs nothing. Several processes must stop together, or they would wait for one another forever.
        self._look_always = fabric.device.type == "cpu" and fabric.world_size == 1
        self._first: Tensor | None = None
        self.reset()

    def reset(self) -> None:
        """Begin a new epoch."""
        self.names: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        self._count = 0

    def add(self, terms: Terms, samples: int, *, step: int) -> Tensor:
        """Count one step; returns its values (total first, then the parts) as one vector on the device."""
        names = ("total", *terms.parts)
        values = torch.stack([terms.total.detach().float(), *(p.detach().float() for p in terms.parts.values())])
        if self._sums is None:
            self.names, self._sums = names, torch.zeros_like(values)
        if self._first is None:
            self._first = torch.full_like(values, math.inf)
        self._sums += values * samples
        self._count += samples
        self._first = torch.minimum(self._first, torch.where(values.isfinite(), math.inf, float(step)))
        if self._look_always:
            self.check()
        return values

    def check(self) -> None:
        """Raise `NonFiniteError` naming the step and the part of the loss that was the first to be NaN or infinite."""
        if self._first is None:
            return
        first = least(self._fabric, self._first).tolist()
        step = min(first)
        if math.isinf(step):
            return
        bad = [name for name, at in zip(self.names, first, strict=True) if at == step]
        parts = [name for name in bad if name != "total"] or bad
        own = {"main": "the main loss", "total": "the total"}
        where = ", ".join(own.get(name, f"branch '{name}'") for name in parts)
        raise NonFiniteError(
            f"the loss became NaN or infinite at step {int(step)}, first in {where}. Lower the learning rate or that "
            "branch's weight, or add a warm-up; the last checkpoint holds the weights from before."
        )

    def means(self) -> dict[str, Any]:
        """Mean total and parts over all samples and processes since the last `reset`."""
        if self._sums is None:
            return {"total": None, "parts": {}}
        sums = torch.cat([self._sums, self._sums.new_tensor([float(self._count)])])
        *values, count = summed(self._fabric, sums).tolist()
        total, *parts = (v / count for v in values)
        return {"total": total, "parts": dict(zip(self.names[1:], parts, strict=True))}

    def state(self) -> dict[str, Any]:
        """What this process has summed so far, as plain values."""
        sums = [] if self._sums is None else self._sums.tolist()
        return {"names": list(self.names), "sums": sums, "count": self._count}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.reset()
        if state["names"]:
            self.names = tuple(state["names"])
            self._sums = torch.tensor(state["sums"], device=self._fabric.device)
            self._count = state["count"]


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
