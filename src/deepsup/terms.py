"""The terms of an objective: which output is held against what, by which loss, with which weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from deepsup import losses, schedules
from deepsup.layers.selectors import INPUT as INPUT

MAIN = "main"  # the model's own output
TARGET = "y"  # how an edge calls the labels
ENSEMBLE = "ensemble"  # the mixture of all scores
PREVIOUS = "previous"  # what `main` said of the same samples one batch ago
GATE = "gate"  # the branch whose output weighs the mixture, where there is one
ONE = schedules.constant(1)


class Bracket(NamedTuple):
    """DSN's bracket around a branch's loss: [norm * |w|² + loss - gamma]+, |w|² over the weights of the head."""

    gamma: float
    norm: float


@dataclass(frozen=True)
class Edge:
    """One term of an objective: how far the output `source` is from `target`, the labels "y" or another output.

    An output that serves as a target is a teacher and, with `detach`, gets no gradient from it. Outputs are `main`,
    branches by name, further outputs of a head as `BRANCH/feature`, `ensemble` (the gated or plain mean of all scores)
    and `previous` (what `main` said of the same samples one batch ago).
    """

    source: str
    target: str = TARGET
    loss: str | losses.Loss = "cross_entropy"
    weight: Callable[[float], float] = ONE  # a number or a text will do, and becomes the schedule that it means
    bracket: Bracket | None = None
    detach: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", schedules.as_schedule(self.weight))

    @property
    def name(self) -> str:
        """`layer1` for a term with the labels, `layer1<-main` for one in which layer1 learns from main."""
        return self.source if self.target == TARGET else f"{self.source}<-{self.target}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it."""
        return {
            "from": self.source,
            "to": self.target,
            "loss": losses.show(self.loss),
            "weight": schedules.show(self.weight),
            "gate": None if self.bracket is None else list(self.bracket),
            "detach": self.detach,
        }

    def __str__(self) -> str:
        """Its term of the formula."""
        arrow = f"{self.source}, {self.target}" if self.target == TARGET else f"{self.source} <- {self.target}"
        inner = f"{losses.show(self.loss)}({arrow})"
        if self.bracket is not None:
            inner = f"[{self.bracket.norm:g} |w|² + {inner} - {self.bracket.gamma:g}]+"
        return inner
