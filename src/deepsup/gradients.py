"""What happens where a branch's gradient enters the trunk: measured and, if asked, changed, in the one backward pass.

Two gradients meet at a tapped activation: `above`, which comes down from everything over it (the main loss and the
branches higher up), and `branch`, which this branch sends, weighted as it trains. A *rule* says what goes further
down; the head itself always trains on its full gradient. A rule prints as the text that names it in `plan(gradient=)`:

    add                above + branch: the sum of the losses, and the default
    scale(0.5)         above + 0.5 branch; also a schedule of progress: scale(linear(0, 1))
    detach             above: the branch trains its head only
    warmup(0.2)        scale, rising from 0 to 1 over the first fifth of training
    project            the part of the branch that opposes what comes from above is removed
    pcgrad             each loses the part that opposes the other (Yu et al. 2020, alg. 1, two tasks)
    mgda               the shortest convex combination of the two (Sener & Koltun 2018, two tasks, on activations)
    equilibrium        (m above + branch) / (m + 1), with m outputs higher up (Li et al. 2019)
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from deepsup import schedules
from deepsup.errors import ConfigError
from deepsup.features import widened
from deepsup.specs import Registry, closest, is_number

Custom: TypeAlias = Callable[[Tensor, Tensor], Tensor]
GradientLike: TypeAlias = "str | Rule | Custom"

RULES = Registry[Callable[..., "Rule"]]("gradient rule", ConfigError)
STATISTICS = 4  # <above, branch>, |above|², |branch|², <above, result>

# The classes below are lower case because users read and write them as functions: `scale(0.5)`.


class Rule:
    """Base of the rules below: frozen dataclasses whose `repr` is the text that `parse` reads."""

    scales: ClassVar[bool] = False  # whether `__call__` needs the factor
    needs_above: ClassVar[bool] = True  # whether all that comes from above must be there, or the rule only adds to it

    def __call__(self, above: Tensor, branch: Tensor, factor: Any) -> Tensor:
        """The gradient that goes further down, from the two that meet (same shape) and the present `factor()`."""
        raise TypeError(f"{type(self).__name__} does not say what goes down: define __call__")

    def factor(self, progress: float, outputs_above: int) -> float:
        """The number that `__call__` is given: of training progress and of the outputs (main included) higher up."""
        return 1.0

    @property
    def moves(self) -> bool:
        """Whether the factor changes over training."""
        return False

    def sends_nothing(self, factor: Tensor | None) -> bool:
        """Whether nothing of the branch goes down, at the present factor."""
        return False

    def __repr__(self) -> str:
        values = [repr(getattr(self, f.name)) for f in fields(self)]  # type: ignore[arg-type]
        return type(self).__name__ + (f"({', '.join(values)})" if values else "")


@RULES.register
@dataclass(frozen=True, repr=False)
class add(Rule):
    """The plain sum: what training on the sum of the losses does."""

    needs_above = False

    def __call__(self, above: Tensor, branch: Tensor, factor: Any) -> Tensor:
        return above + branch


@RULES.register
@dataclass(frozen=True, repr=False)
class scale(Rule):
    """The branch's gradient times `by`, a number or a schedule of progress; the head keeps all of it."""

    needs_above = False

    by: Any
    scales = True

    def __post_init__(self) -> None:
        if isinstance(self.by, (int, float)) and not (is_number(self.by) and self.by >= 0):
            raise ConfigError(
                f"scale takes a finite number of at least 0, or a schedule, such as scale(0.5); found {self.by!r}. A negative "
                "one would make the trunk unlearn what the head learns."
            )
        given = schedules.as_schedule(self.by)
        object.__setattr__(self, "by", given.value if isinstance(given, schedules.constant) else given)

    def __call__(self, above: Tensor, branch: Tensor, factor: Any) -> Tensor:
        sent: Tensor = factor.to(branch.dtype) * branch
        return above + sent

    def factor(self, progress: float, outputs_above: int) -> float:
        return float(self.by(progress) if callable(self.by) else self.by)

    def sends_nothing(self, factor: Tensor | None) -> bool:
        return factor is not None and not factor.is_cuda and not factor

    @property
    def moves(self) -> bool:
        return callable(self.by)


@RULES.register
@dataclass(frozen=True, repr=False)
class warmup(Rule):
    """Nothing at first, all of it from progress `until` on: the head finds its way before it pulls at the trunk."""

    needs_above = False

    until: float
    scales = True

    def __post_init__(self) -> None:
        if not is_number(self.until) or not 0 < self.until <= 1:
            raise ConfigError(f"warmup needs a share of training in (0, 1], such as warmup(0.2); found {self.until!r}.")

    __call__ = scale.__call__
    sends_nothing = scale.sends_nothing

    def factor(self, progress: float, outputs_above: int) -> float:
        return min(1.0, progress / self.until)

    @property
    def moves(self) -> bool:
        return True


@RULES.register
@dataclass(frozen=True, repr=False)
class detach(Rule):
    """The trunk does not feel the branch at all."""

    needs_above = False

    def __call__(self, above: Tensor, branch: Tensor, factor: Any) -> Tensor:
        return above

    def sends_nothing(self, factor: Tensor | None) -> bool:
        return True


@RULES.register
@dataclass(frozen=True, repr=False)
class project(Rule):
    """Where the two oppose each other, the branch loses its part along `above`; otherwise the plain sum."""

    def __call__(self, above: Tensor, branch: Tensor, factor: Any) -> Tensor:
        return (widened(above) + widened(branch) - _opposing(above, branch) * widened(above)).to(above.dtype)


@RULES.register
@dataclass(frozen=True, repr=False)
class pcgrad(Rule):
    """Where the two oppose each other, each loses its part along the other."""

    def __call__(self, above: Tensor, branch: Tensor, factor: Any) -> Tensor:
        a, b = widened(above), widened(branch)
        return (a + b - _opposing(a, b) * a - _opposing(b, a) * b).to(above.dtype)


@RULES.register
@dataclass(frozen=True, repr=False)
class mgda(Rule):
    """`g above + (1 - g) branch` with g in [.001, .999] that makes it shortest, so that it serves both or neither.

    g = <branch - above, branch> / |above - branch|². The weights sum to 1, not to 2 as in the plain sum. Where one
    of the two is zero, the other goes down whole: a branch of weight 0 must not stop the trunk.
    """

    def __call__(self, above: Tensor, branch: Tensor, factor: Any) -> Tensor:
        both, aa, bb = dot(above, branch), dot(above, above), dot(branch, branch)
        distance = aa + bb - 2 * both
        share = torch.where(distance > 0, (bb - both) / distance, 0.5).clamp(0.001, 0.999)
        one = torch.ones_like(share)
        g = torch.where(bb > 0, share, one)
        h = torch.where(aa > 0, 1 - share, one)
        return (g * widened(above) + h * widened(branch)).to(above.dtype)


@RULES.register
@dataclass(frozen=True, repr=False)
class equilibrium(Rule):
    """Every output has the same say in the layers below it, however many there are (gradient equilibrium)."""

    scales = True

    def __call__(self, above: Tensor, branch: Tensor, factor: Any) -> Tensor:
        share: Tensor = factor.to(above.dtype)
        return share * above + (1 - share) * branch

    def factor(self, progress: float, outputs_above: int) -> float:
        return outputs_above / (outputs_above + 1)


@dataclass(frozen=True, repr=False)
class custom(Rule):
    """A function of the user's: (above, branch) -> what goes down, all of one shape."""

    function: Custom

    def __call__(self, above: Tensor, branch: Tensor, factor: Any) -> Tensor:
        result = self.function(above, branch)
        if not isinstance(result, Tensor) or result.shape != above.shape:
            found = f"a tensor of shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise ConfigError(
                f"the gradient rule {self!r} returned {found}; it must return what goes down, a tensor of shape "
                f"{tuple(above.shape)}, as (above, branch) are."
            )
        return result

    def __repr__(self) -> str:
        return f"custom:{getattr(self.function, '__name__', type(self.function).__name__)}"


ADD = add()


def get(rule: GradientLike) -> Rule:
    """A rule from its text, a rule itself, or the user's function. Raises `ConfigError` naming the known ones."""
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, str):
        return parse(rule)
    if callable(rule) and not isinstance(rule, type):
        return custom(rule)
    raise ConfigError(f"gradient= takes a rule's text or a function of (above, branch); found {rule!r}.")


def parse(text: str) -> Rule:
    """Build a rule from its printed form; nothing is evaluated as code."""
    if not isinstance(text, str):
        raise ConfigError(f"a gradient rule is a text such as 'scale(0.5)'; found {text!r:.200}.")
    name, bracket, rest = text.strip().partition("(")
    if name not in RULES:
        known = f"{closest(name, RULES, cutoff=0.3)} Rules: {', '.join(RULES)}."
        raise ConfigError(f"no gradient rule is called {text!r}.{known}")
    takes = [f.name for f in fields(RULES[name])]  # type: ignore[arg-type]
    inside = rest.rstrip().removesuffix(")").strip()
    if bool(takes) != bool(inside) or (bracket and not rest.rstrip().endswith(")")):
        form = f"{name}({takes[0].upper()})" if takes else name
        raise ConfigError(f"cannot read the gradient rule {text!r}. Write {form}.")
    if not takes:
        return RULES[name]()
    try:
        value = ast.literal_eval(inside)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        value = inside  # a schedule's text
    return RULES[name](value)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of two tensors of one shape, in float32 at least, without copying what is dense."""
    if torch.compiler.is_compiling():
        return (widened(a) * widened(b)).sum()
    order = sorted(range(a.ndim), key=a.stride, reverse=True)
    return torch.dot(widened(a).permute(order).flatten(), widened(b).permute(order).flatten())


def _opposing(one: Tensor, other: Tensor) -> Tensor:
    """How much of `one` is in `other`, where that is negative: min(0, <one, other>) / |one|²; 0 for a zero `one`."""
    length = dot(one, one)
    return torch.where(length > 0, dot(one, other).clamp(max=0) / length, 0.0)


class Fork(torch.autograd.Function):
    """One activation handed on twice, to the trunk and to the branch; in backward the two gradients meet again.

    What is measured leaves as the gradient of `slot`, a leaf of `STATISTICS` numbers: no side effect in Python, so
    it compiles into one graph, and autograd itself adds up several batches before a step (their inner products add
    up; the losses of one batch must go down together, or the two gradients never meet). Nothing is saved for
    backward, so recomputation under checkpointing, which does not fork, finds the same saved tensors.
    """

    @staticmethod
    def forward(
        ctx: Any, activation: Tensor, slot: Tensor | None, factor: Tensor | None, rule: Rule, copy: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.rule, ctx.factor, ctx.measures = rule, factor, slot is not None
        ctx.slot_dtype = torch.float32 if slot is None else slot.dtype
        if torch.compiler.is_compiling():  # a compiled graph may not hand out views; it removes copies itself
            return activation.clone(), activation.clone()
        ctx.set_materialize_grads(False)
        ctx.layout = torch.empty_like(activation, device="meta")
        trunk = activation.clone() if copy else activation.view_as(activation)
        return trunk, activation.view_as(activation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        above, branch = gradients
        if not torch.compiler.is_compiling():
            if branch is None:  # no loss on it in this backward
                return above, None, None, None, None
            if ctx.rule.sends_nothing(ctx.factor) and not ctx.measures:  # not even zeros, or 0 times infinity
                return above, None, None, None, None
            if above is None:  # nothing above reads it; zeros as the trunk would lay them out
                layout = ctx.layout
                above = torch.empty_strided(
                    layout.shape, layout.stride(), dtype=branch.dtype, device=branch.device
                ).zero_()
        result = ctx.rule(above, branch, ctx.factor)
        found = None
        if ctx.measures:
            both, aa = dot(above, branch), dot(above, above)
            along = both + aa if ctx.rule == ADD else dot(above, result)
            found = torch.stack([both, aa, dot(branch, branch), along]).to(ctx.slot_dtype)
        return result, found, None, None, None


def new_slot(device: torch.device) -> Tensor:
    """A leaf that receives `STATISTICS` numbers as its gradient."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.zeros(STATISTICS, device=device, dtype=dtype, requires_grad=True)
