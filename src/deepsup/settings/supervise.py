"""Which branches a run trains, and how a probe places them: settings of the section `supervise`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from deepsup import gradients, methods, schedules
from deepsup.settings.section import Settings

Weight = float | str


class ProbeConfig(Settings):
    """How `at: auto` places branches: a gradient probe on training batches, and the rule that reads it."""

    iterations: int = Field(default=20, ge=1)
    """Batches that the gradients are averaged over."""
    rule: Literal["drop", "threshold", "evenly"] | None = None
    """How the gradients are read; null is the rule of the method. `evenly` does not look at them."""
    factor: float = Field(default=10.0, gt=1)
    """`drop` puts a branch wherever the gradient has fallen to 1/`factor` of that at the branch above."""
    threshold: float = Field(default=1e-7, gt=0)
    """`threshold` puts one branch, after the deepest layer up to which every mean absolute gradient is below this."""
    count: int = Field(default=2, ge=1)
    """`evenly` puts so many branches at even distances in depth."""


class SuperviseConfig(Settings):
    """Which branches train the middle of the network; `supervise: null` trains the plain model."""

    method: str = "aux"
    """Whose branches, terms and weights, with options: `aux`, `dsn`, `dhm(temperature=2)`; `deepsup methods` explains them."""
    at: Literal["auto"] | list[str] | dict[str, str] | None = None
    """Where: `auto` asks the probe; else layers (`[layer2, 75%]`), or names for the branches (`{early: layer2}`); null is
    where the method puts them itself, and `auto` for methods that leave it open."""
    head: str | dict[str, str] | None = None
    """`auto`, `linear`, `pool`, `cnds`, `continuation`, `main`, ... with options: `cnds(hidden=256)`; `shared(pool)` is one for
    all branches that say it; null is the method's."""
    weight: Weight | dict[str, Weight] | None = None
    """A number or a schedule over the training: `linear(0.3, 0)`; null is the method's."""
    loss: str | dict[str, str] | None = None
    """The loss of the branches: `cross_entropy`, `squared_hinge`, ...; null is the method's."""
    gradient: str | dict[str, str] | None = None
    """How a branch's gradient enters the trunk: `add`, `scale(0.5)`, `detach`, `warmup(0.2)`, `project`, `pcgrad`, `mgda`,
    `equilibrium`; null is the method's."""
    zero_heads: bool = False
    """Start the last layer of heads that give class scores at zero: at first their losses send no gradient into the trunk."""
    optional: bool | dict[str, bool] = False
    """Leave a branch out of a step in which the model skips its layer, as nets with LayerDrop or stochastic depth do;
    `{late: true}` for one by name. Without it such a step is an error."""
    like: str | dict[str, Any] | None = None
    """Of the control `equal-compute` alone: the arm, or the `supervise` settings, whose compute is to be matched."""
    probe: ProbeConfig = ProbeConfig()

    @field_validator("at", mode="before")
    @classmethod
    def _one_layer_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value != "auto" else value

    @field_validator("method")
    @classmethod
    def _method_is_known(cls, value: str) -> str:
        methods.get(value)
        return value

    @field_validator("weight")
    @classmethod
    def _weights_are_schedules(cls, value: Any) -> Any:
        for weight in value.values() if isinstance(value, dict) else [value]:
            if weight is not None:
                schedules.parse(weight)
        return value

    @field_validator("gradient")
    @classmethod
    def _gradients_are_rules(cls, value: Any) -> Any:
        for rule in value.values() if isinstance(value, dict) else [value]:
            if rule is not None:
                gradients.parse(rule)
        return value
