"""What a method is: the branches, terms and weights that `plan` fills in. Never a training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import nn

from deepsup import losses
from deepsup.errors import ConfigError
from deepsup.layers.dry_run import Trace
from deepsup.terms import Edge, Gate


class Scene(NamedTuple):
    """What a method may look at before it says what it needs; it changes nothing of it."""

    model: nn.Module
    seen: Trace


@dataclass(frozen=True)
class Preset:
    """One branch as a method wants it. `own`: a part of the method, not touched by settings for all branches."""

    layer: str
    head: str
    loss: str | losses.Loss
    weight: str
    gradient: str = "add"
    gate: Gate | None = None
    own: bool = False


Places = Callable[[Scene], Mapping[str, str]]
Arrange = Callable[["Method", Scene, Mapping[str, str]], Mapping[str, Preset]]
Mimicry = Callable[[Sequence[str]], Sequence[Edge]]


@dataclass(frozen=True)
class Method:
    """One method: what it does, its formula and source, where it departs from the source, and its defaults.

    `head`, `loss`, `weight`, `gradient` and `gate` are those of every branch; `{epochs}` in a weight stands for the length of
    the training. `places` says where its branches go if the user does not. `arrange` turns layers into branches where
    they are not all alike. `edges` are its terms between outputs, given the names of the branches; `main_weight` is for
    weights that sum to 1.
    """

    name: str
    summary: str
    formula: str
    source: str
    deviations: str = "-"
    head: str = "auto"
    loss: str | losses.Loss = "cross_entropy"
    weight: str = "constant(1)"
    gradient: str = "add"
    gate: Gate | None = None
    rule: str = "drop"  # of the probe, for at="auto"
    bare: bool = False  # attaches no branches at all
    maps: bool = False  # for networks that predict maps
    where: str = ""  # what `places` does, in words
    heads: str = ""  # what `arrange` gives the branches, in words
    places: Places | None = None
    arrange: Arrange | None = None
    edges: Mimicry | None = None
    main_loss: str | losses.Loss = "cross_entropy"
    main_weight: Callable[[int], float] | None = None  # given how many branches there are; None: 1
    dynamic: bool = False
    views: int = 1
    overlap: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def check_at(self, at: Any) -> None:
        """Raise `ConfigError` where the probe is asked for places that the method knows itself."""
        if at == "auto" and self.places is not None:
            raise ConfigError(
                f"method '{self.name}' says itself where its branches go ({self.where}); at='auto' would ask the probe. Leave "
                "at out (supervise.at=null), or name layers."
            )

    def under(self, main_loss: str | losses.Loss | None) -> Method:
        """The method with another loss of the main output, and of its branches if they have the main output's loss."""
        if main_loss is None:
            return self
        losses.check(main_loss)
        return replace(self, main_loss=main_loss, loss=main_loss if self.loss == self.main_loss else self.loss)

    def branches(self, scene: Scene, layers: Mapping[str, str]) -> Mapping[str, Preset]:
        """The branches for the chosen layers, by branch name."""
        if self.arrange is not None:
            return self.arrange(self, scene, layers)
        return {name: self.preset(layer) for name, layer in layers.items()}

    def facts(self) -> dict[str, str]:
        """What there is to know about the method, by title, for people."""
        asked = {k: repr(v) for k, v in self.options.items()}
        branches = {"branches": self.where or "at layers of your choice, or where the probe says"}
        branches |= {"head": self.heads or self.head, "loss": losses.show(self.loss)}
        branches["weight"] = self.weight.replace("{epochs}", "N")
        if self.gradient != "add":
            branches["gradient"] = self.gradient
        main = {"main loss": losses.show(self.main_loss)} if self.main_loss != "cross_entropy" else {}
        options = {"options": ", ".join(f"{k}={v}" for k, v in asked.items())} if asked else {}
        said = {"formula": self.formula, "source": self.source, **({} if self.bare else branches), **main, **options}
        return {**said, "deviations": self.deviations}

    def preset(self, layer: str, **changes: Any) -> Preset:
        """A branch on `layer` with the method's defaults, but for `changes`."""
        plain = {
            "head": self.head,
            "loss": self.loss,
            "weight": self.weight,
            "gradient": self.gradient,
            "gate": self.gate,
        }
        return Preset(layer=layer, **{**plain, **changes})


def positive(method: str, **values: Any) -> None:
    """Raise `ConfigError` for an option that must be a number above 0 and is not."""
    for name, value in values.items():
        if not _is_number(value) or not value > 0:
            raise ConfigError(f"method '{method}' needs {name} above 0; found {name}={value!r}.")


def between(method: str, low: float, high: float, **values: Any) -> None:
    """Raise `ConfigError` for an option that must be a number from `low` to `high` and is not."""
    for name, value in values.items():
        if not _is_number(value) or not low <= value <= high:
            limits = f"of at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
            raise ConfigError(f"method '{method}' needs a number {limits} for {name}; found {name}={value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
