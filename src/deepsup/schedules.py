"""How a branch's weight changes over training: plain callables from progress to weight.

Progress is the share of training that is done, a float in [0, 1]. A schedule prints as the constructor
that rebuilds it, which is also how a plan stores it and how the command line names it:

    >>> linear(0.3, 0)
    linear(0.3, 0)
    >>> linear(0.3, 0)(0.5)
    0.15
    >>> parse("until(constant(0.4), 0.5)")(0.6)
    0.0

Any other callable works as a schedule too; only storing it in a plan file is refused.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from deepsup.errors import ConfigError

Weight: TypeAlias = "str | float | Callable[[float], float]"

# The classes below are lower case because users read and write them as functions: `cosine(1, 0)`.


class Schedule:
    """Base of the schedules below: a frozen dataclass whose `repr` is its constructor call.

    Fields called `schedule` take whatever `as_schedule` does; all others but `reading` and `drops` are numbers.
    """

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.name == "schedule":
                object.__setattr__(self, f.name, as_schedule(value))
                if isinstance(self.schedule, adaptive):  # type: ignore[attr-defined]
                    raise ConfigError(
                        f"{type(self).__name__} cannot change an adaptive weight, which follows the losses and not the "
                        "progress. Use adaptive(...) alone."
                    )
            elif f.name not in ("reading", "drops") and not (isinstance(value, (int, float)) and math.isfinite(value)):
                raise ConfigError(f"{type(self).__name__} needs a finite number for {f.name}; found {value!r}.")

    def __call__(self, progress: float) -> float:
        """The weight when a share `progress` in [0, 1] of training is done."""
        raise TypeError(f"{type(self).__name__} does not say what its weight is: define __call__")

    def __repr__(self) -> str:
        values = [getattr(self, f.name) for f in fields(self)]  # type: ignore[arg-type]
        defaults = [f.default for f in fields(self)]  # type: ignore[arg-type]
        while values and values[-1] == defaults[-1]:  # what is left out is put back in
            values.pop()
            defaults.pop()
        return f"{type(self).__name__}({', '.join(map(repr, values))})"


@dataclass(frozen=True, repr=False)
class constant(Schedule):
    """The same weight throughout; PSPNet, GoogLeNet and most segmenters use 0.3 to 0.4."""

    value: float

    def __call__(self, progress: float) -> float:
        return float(self.value)


@dataclass(frozen=True, repr=False)
class linear(Schedule):
    """A straight line from `start` at progress 0 to `end` at progress 1."""

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True, repr=False)
class cosine(Schedule):
    """Half a cosine from `start` at progress 0 to `end` at progress 1."""

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, repr=False)
class poly(Schedule):
    """From `start` to `end` by a power of what is left of training: end + (start - end) * (1 - t)^power, t the progress.

    The decay of the learning rate in DeepLab (Chen et al. 2016) and PSPNet (Zhao et al. 2017), iteration by iteration:
    `optimizer.schedule: poly(1, 0)`, with their power of 0.9. A power of 1 is a straight line.
    """

    start: float
    end: float = 0
    power: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power <= 0:
            raise ConfigError(f"poly needs a power above 0; found {self.power!r}.")

    def __call__(self, progress: float) -> float:
        left = max(0.0, 1 - progress)  # a power of less than nothing is no number
        return float(self.end + (self.start - self.end) * left**self.power)


@dataclass(frozen=True, repr=False)
class cnds(Schedule):
    """The decay of CNDS (Wang et al. 2015): after each epoch t of N, alpha <- alpha * (1 - t/N).

    The paper's assignment can be read in two ways, and they differ a lot (N=100, alpha 0.3, epoch 20: 0.031 or 0.240):
    `reading="iterated"` multiplies the factors up, alpha_t = alpha * prod_{s<=t} (1 - s/N), as the paper writes it;
    `reading="linear"` takes alpha_t = alpha * (1 - t/N). `epochs` is N; the weight is constant within an epoch.
    """

    start: float
    epochs: int = 100
    reading: str = "iterated"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_reading(self.reading, self.epochs, of="cnds")

    def __call__(self, progress: float) -> float:
        epoch = _epoch(progress, self.epochs)
        if self.reading == "linear":
            return self.start * (1 - epoch / self.epochs)
        return self.start * math.prod([1 - s / self.epochs for s in range(1, epoch + 1)])


@dataclass(frozen=True, repr=False)
class dsn(Schedule):
    """The decay of DSN (Lee et al. 2015): when epoch t of N is over, alpha <- alpha * 0.1 * (1 - t/N), t = 0, 1, ...

    Read as it is written (`reading="iterated"`), the weight is gone after three epochs: of N=100 they begin with 1, 0.1,
    9.9e-3, 9.7e-4, 9.4e-5 times `start`. `reading="linear"` takes the closed form start * (1 - t/N), without the 0.1,
    which lets "the second term vanish" over the whole training. `epochs` is N; the weight is constant within an epoch.
    """

    start: float
    epochs: int = 100
    reading: str = "iterated"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_reading(self.reading, self.epochs, of="dsn")

    def __call__(self, progress: float) -> float:
        epoch = _epoch(progress, self.epochs)
        if self.reading == "linear":
            return self.start * (1 - epoch / self.epochs)
        return self.start * math.prod([0.1 * (1 - t / self.epochs) for t in range(epoch)])


def _check_reading(reading: str, epochs: float, *, of: str) -> None:
    if reading not in ("iterated", "linear"):
        raise ConfigError(f"{of} has no reading {reading!r}. Choose 'iterated' or 'linear'.")
    if epochs < 1:
        raise ConfigError(f"{of} needs epochs >= 1, the N of the paper; found {epochs!r}.")


def _epoch(progress: float, epochs: int) -> int:
    # The small addend keeps epoch boundaries where they are: 3/10*10 is 2.9999999999999996.
    return int(min(epochs, progress * epochs + 1e-9))


@dataclass(frozen=True, repr=False)
class sdn(Schedule):
    """The ramp of Shallow-Deep Networks (Kaya et al. 2019): tau = min(depth, 0.01 + progress * depth).

    `depth` in (0, 1] is the branch's relative depth, C_i of the paper. The released code counts epochs from 1 and holds
    the weight within each, so that it is up to an epoch's step ahead of this one.
    """

    depth: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.depth <= 1:
            raise ConfigError(f"sdn needs a relative depth in (0, 1]; found {self.depth!r}.")

    def __call__(self, progress: float) -> float:
        return min(self.depth, 0.01 + progress * self.depth)


@dataclass(frozen=True, repr=False)
class rampup(Schedule):
    """The ramp of ONE's distillation (Lan et al. 2018): value * exp(-5 (1 - progress/until)^2), then `value`.

    `until` is a share of training; the paper's is 80 of 300 epochs. It starts at exp(-5) = 0.7 % of `value`, not at 0.
    """

    value: float
    until: float

    def __call__(self, progress: float) -> float:
        done = min(1.0, progress / self.until) if self.until > 0 else 1.0
        return self.value * math.exp(-5 * (1 - done) ** 2)


@dataclass(frozen=True, repr=False)
class adaptive(Schedule):
    """The mark of a weight that follows its loss: the inverse of the loss's running mean (AdaLoss, Hu et al. 2019).

    The weight is not a function of progress: the objective, which sees the losses, takes the running mean of the main
    loss over that of the branch's, mean <- decay * mean + (1 - decay) * loss, with `decay` in [0, 1). Called, it gives
    1, the weight where there are no losses to follow yet.
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1:
            raise ConfigError(f"adaptive needs a decay in [0, 1); found {self.decay!r}.")

    def __call__(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True, repr=False)
class step(Schedule):
    """`start`, then from each progress in `drops` on the weight given there: `step(0.3, {0.5: 0.1, 0.8: 0})`."""

    start: float
    drops: Mapping[float, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = [*self.drops, *self.drops.values()] if isinstance(self.drops, Mapping) else [None]
        if not all(isinstance(n, (int, float)) for n in numbers):
            raise ConfigError(
                f"step needs a mapping from progress to weight, such as {{0.5: 0.1}}; found {self.drops!r}."
            )

    def __call__(self, progress: float) -> float:
        reached = [at for at in self.drops if progress >= at]
        return float(self.drops[max(reached)] if reached else self.start)

    def __hash__(self) -> int:
        return hash((self.start, tuple(sorted(self.drops.items()))))


@dataclass(frozen=True, repr=False)
class warmup(Schedule):
    """Another schedule, scaled up from 0 until progress `until` is reached."""

    schedule: Any
    until: float

    def __call__(self, progress: float) -> float:
        return float(self.schedule(progress)) * min(1.0, progress / self.until if self.until > 0 else 1.0)


@dataclass(frozen=True, repr=False)
class until(Schedule):
    """Another schedule, cut off to exactly 0 from progress `end` on."""

    schedule: Any
    end: float

    def __call__(self, progress: float) -> float:
        return float(self.schedule(progress)) if progress < self.end else 0.0


SCHEDULES: dict[str, type[Schedule]] = {
    c.__name__: c for c in (constant, linear, cosine, poly, cnds, dsn, sdn, rampup, adaptive, step, warmup, until)
}


def parse(text: str | float) -> Schedule:
    """Build a schedule from its printed form or from a plain number; nothing is evaluated as code.

    Raises `ConfigError` with the known constructors when the text is not one of them.
    """
    if isinstance(text, (int, float)):
        return constant(text)
    if not isinstance(text, str):
        raise ConfigError(f"a weight is a number, a schedule or its text; found {text!r}.")
    try:
        return _build(ast.parse(text.strip(), mode="eval").body)
    except ConfigError:
        raise
    except (SyntaxError, ValueError, TypeError) as error:
        reason = "it is neither a number nor a schedule" if "malformed node" in str(error) else str(error)
        known = ", ".join(f"{name}({', '.join(inspect.signature(cls).parameters)})" for name, cls in SCHEDULES.items())
        raise ConfigError(f"cannot read the schedule {text!r}: {reason}. Write a number or one of: {known}.") from None


def _build(node: ast.expr) -> Schedule:
    if not isinstance(node, ast.Call):
        return constant(float(ast.literal_eval(node)))
    name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
    if name not in SCHEDULES:
        raise ValueError(f"no schedule is called {name!r}")
    args = [_value(a) for a in node.args]
    kwargs = {k.arg: _value(k.value) for k in node.keywords if k.arg}
    return SCHEDULES[name](*args, **kwargs)


def _value(node: ast.expr) -> object:
    return _build(node) if isinstance(node, ast.Call) else ast.literal_eval(node)


def as_schedule(value: Weight) -> Callable[[float], float]:
    """A number, a text or a callable, as a callable of progress. Raises `ConfigError` for anything else."""
    if isinstance(value, type):
        raise ConfigError(f"{value.__name__} is a class, not a schedule. Call it: {value.__name__}(...).")
    return value if callable(value) else parse(value)


def show(weight: Callable[[float], float]) -> str:
    """A schedule as a plan stores it: its constructor, or `custom:` for what `parse` could not rebuild."""
    try:
        return repr(weight) if parse(repr(weight)) == weight else "custom:schedule"
    except ConfigError:
        return "custom:schedule"
