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
from typing import Annotated, Any, TypeAlias

from deepsup.errors import ConfigError
from deepsup.specs import ABOVE_ZERO, BELOW_ONE, Limit, Registry, check_options, is_number, one_of

Weight: TypeAlias = "str | float | Callable[[float], float]"

_LONGEST = 10_000  # characters of a schedule's text: what is longer is no schedule, and takes Python long to parse

# The classes below are lower case because users read and write them as functions: `cosine(1, 0)`.


SCHEDULES = Registry["type[Schedule]"]("schedule", ConfigError)

# A negative weight would train an output to be wrong, a negative rate the model.
Number: TypeAlias = Annotated[float, Limit("a finite number of at least 0", lambda v: is_number(v) and v >= 0)]
Epochs: TypeAlias = Annotated[
    int, Limit("a number of at least 1, the N of the paper", lambda v: is_number(v) and v >= 1)
]
Share: TypeAlias = Annotated[float, Limit("a share of training in (0, 1]", lambda v: is_number(v) and 0 < v <= 1)]
End: TypeAlias = Annotated[float, Limit("a share of training in [0, 1]", lambda v: is_number(v) and 0 <= v <= 1)]
Depth: TypeAlias = Annotated[float, Limit("a relative depth in (0, 1]", lambda v: is_number(v) and 0 < v <= 1)]
Reading: TypeAlias = Annotated[str, one_of("iterated", "linear")]
Drops: TypeAlias = Annotated[
    Mapping[float, float],
    Limit(
        "a mapping from progress in [0, 1] to a weight of at least 0, such as {0.5: 0.1}",
        lambda v: isinstance(v, Mapping) and _are_drops(v),
    ),
]


def _are_drops(drops: Mapping[Any, Any]) -> bool:
    return all(is_number(n) and n >= 0 for n in (*drops, *drops.values())) and all(at <= 1 for at in drops)


class Schedule:
    """Base of the schedules below: a frozen dataclass whose `repr` is its constructor call.

    A field called `schedule` takes whatever `as_schedule` does; what the others may be stands in their annotations.
    """

    def __post_init__(self) -> None:
        given = vars(self)
        if "schedule" in given:
            inner = as_schedule(given["schedule"])
            if isinstance(inner, adaptive):
                raise ConfigError(
                    f"{type(self).__name__} cannot change an adaptive weight, which follows the losses and not the "
                    "progress. Use adaptive(...) alone."
                )
            object.__setattr__(self, "schedule", inner)
        check_options(type(self), type(self).__name__, vars(self), kind="schedule", error=ConfigError)

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


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class constant(Schedule):
    """The same weight throughout; PSPNet, GoogLeNet and most segmenters use 0.3 to 0.4."""

    value: Number

    def __call__(self, progress: float) -> float:
        return float(self.value)


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class linear(Schedule):
    """A straight line from `start` at progress 0 to `end` at progress 1."""

    start: Number
    end: Number

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class cosine(Schedule):
    """Half a cosine from `start` at progress 0 to `end` at progress 1."""

    start: Number
    end: Number

    def __call__(self, progress: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class poly(Schedule):
    """From `start` to `end` by a power of what is left of training: end + (start - end) * (1 - t)^power, t the progress.

    The decay of the learning rate in DeepLab (Chen et al. 2016) and PSPNet (Zhao et al. 2017), iteration by iteration:
    `optimizer.schedule: poly(1, 0)`, with their power of 0.9. A power of 1 is a straight line.
    """

    start: Number
    end: Number = 0
    power: Annotated[float, ABOVE_ZERO] = 0.9

    def __call__(self, progress: float) -> float:
        left = max(0.0, 1 - progress)  # a power of less than nothing is no number
        return float(self.end + (self.start - self.end) * left**self.power)


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class cnds(Schedule):
    """The decay of CNDS (Wang et al. 2015): after each epoch t of N, alpha <- alpha * (1 - t/N).

    The paper's assignment can be read in two ways, and they differ a lot (N=100, alpha 0.3, epoch 20: 0.031 or 0.240):
    `reading="iterated"` multiplies the factors up, alpha_t = alpha * prod_{s<=t} (1 - s/N), as the paper writes it;
    `reading="linear"` takes alpha_t = alpha * (1 - t/N). `epochs` is N; the weight is constant within an epoch.
    """

    start: Number
    epochs: Epochs = 100
    reading: Reading = "iterated"

    def __call__(self, progress: float) -> float:
        epoch = _epoch(progress, self.epochs)
        if self.reading == "linear":
            return self.start * (1 - epoch / self.epochs)
        return self.start * math.prod([1 - s / self.epochs for s in range(1, epoch + 1)])


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class dsn(Schedule):
    """The decay of DSN (Lee et al. 2015): when epoch t of N is over, alpha <- alpha * 0.1 * (1 - t/N), t = 0, 1, ...

    Read as it is written (`reading="iterated"`), the weight is gone after three epochs: of N=100 they begin with 1, 0.1,
    9.9e-3, 9.7e-4, 9.4e-5 times `start`. `reading="linear"` takes the closed form start * (1 - t/N), without the 0.1,
    which lets "the second term vanish" over the whole training. `epochs` is N; the weight is constant within an epoch.
    """

    start: Number
    epochs: Epochs = 100
    reading: Reading = "iterated"

    def __call__(self, progress: float) -> float:
        epoch = _epoch(progress, self.epochs)
        if self.reading == "linear":
            return self.start * (1 - epoch / self.epochs)
        return self.start * math.prod([0.1 * (1 - t / self.epochs) for t in range(epoch)])


def _epoch(progress: float, epochs: float) -> int:
    # The small addend keeps epoch boundaries where they are: 3/10*10 is 2.9999999999999996.
    return int(min(epochs, progress * epochs + 1e-9))


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class sdn(Schedule):
    """The ramp of Shallow-Deep Networks (Kaya et al. 2019): tau = min(depth, 0.01 + progress * depth).

    `depth` in (0, 1] is the branch's relative depth, C_i of the paper. The released code counts epochs from 1 and holds
    the weight within each, so that it is up to an epoch's step ahead of this one.
    """

    depth: Depth

    def __call__(self, progress: float) -> float:
        return min(self.depth, 0.01 + progress * self.depth)


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class rampup(Schedule):
    """The ramp of ONE's distillation (Lan et al. 2018): value * exp(-5 (1 - progress/until)^2), then `value`.

    `until` is a share of training; the paper's is 80 of 300 epochs. It starts at exp(-5) = 0.7 % of `value`, not at 0.
    With `epochs`, the length of the training, it keeps within each the weight with which that began, as released; 0 moves
    from step to step.
    """

    value: Number
    until: Share
    epochs: Number = 0

    def __call__(self, progress: float) -> float:
        if self.epochs:
            progress = _epoch(progress, self.epochs) / self.epochs
        done = min(1.0, progress / self.until)
        return self.value * math.exp(-5 * (1 - done) ** 2)


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class adaptive(Schedule):
    """The mark of a weight that follows its loss: the inverse of the loss's running mean (AdaLoss, Hu et al. 2019).

    The weight is not a function of progress: the objective, which sees the losses, takes the running mean of the main
    loss over that of the branch's, mean <- decay * mean + (1 - decay) * loss, with `decay` in [0, 1). Called, it gives
    1, the weight where there are no losses to follow yet.
    """

    decay: Annotated[float, BELOW_ONE] = 0.9

    def __call__(self, progress: float) -> float:
        return 1.0


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class step(Schedule):
    """`start`, then from each progress in `drops` on the weight given there: `step(0.3, {0.5: 0.1, 0.8: 0})`."""

    start: Number
    drops: Drops

    def __call__(self, progress: float) -> float:
        reached = [at for at in self.drops if progress >= at]
        return float(self.drops[max(reached)] if reached else self.start)

    def __hash__(self) -> int:
        return hash((self.start, tuple(sorted(self.drops.items()))))


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class warmup(Schedule):
    """Another schedule, scaled up from 0 until progress `until` is reached."""

    schedule: Any
    until: Share

    def __call__(self, progress: float) -> float:
        return float(self.schedule(progress)) * min(1.0, progress / self.until)


@SCHEDULES.register
@dataclass(frozen=True, repr=False)
class until(Schedule):
    """Another schedule, cut off to exactly 0 from progress `end` on."""

    schedule: Any
    end: End

    def __call__(self, progress: float) -> float:
        return float(self.schedule(progress)) if progress < self.end else 0.0


def parse(text: str | float) -> Schedule:
    """Build a schedule from its printed form or from a plain number; nothing is evaluated as code.

    Raises `ConfigError` with the known constructors when the text is not one of them.
    """
    if isinstance(text, (int, float)):
        return constant(text)
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise ConfigError(f"a weight is a number, a schedule or its text; found {text!r:.200}.")
    try:
        return _build(ast.parse(text.strip(), mode="eval").body)
    except ConfigError:
        raise
    except (SyntaxError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        reason = "it is neither a number nor a schedule" if "malformed node" in str(error) else str(error)
        known = ", ".join(f"{name}({', '.join(inspect.signature(cls).parameters)})" for name, cls in SCHEDULES.items())
        raise ConfigError(f"cannot read the schedule {text!r}: {reason}. Write a number or one of: {known}.") from None


def _build(node: ast.expr) -> Schedule:
    if not isinstance(node, ast.Call):
        value = ast.literal_eval(node)
        if not isinstance(value, (int, float)):
            raise ValueError("it is neither a number nor a schedule")
        return constant(value if isinstance(value, bool) else float(value))  # which refuses True
    name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
    if name not in SCHEDULES:
        raise ValueError(f"no schedule is called {name!r}")
    args = [_value(a) for a in node.args]
    if any(k.arg is None for k in node.keywords):
        raise ValueError("it has ** in it")
    kwargs = {str(k.arg): _value(k.value) for k in node.keywords}
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
