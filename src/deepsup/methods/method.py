"""What a method is: the branches, terms and weights that `plan` fills in. Never a training loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple, TypeAlias

from torch import nn

from deepsup import losses
from deepsup.errors import ConfigError
from deepsup.layers.dry_run import Trace
from deepsup.specs import ABOVE_ZERO, Registry, at_least, between, show_call
from deepsup.terms import Bracket, Edge


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
    bracket: Bracket | None = None
    own: bool = False


class Places(NamedTuple):
    """Where the branches of a method go if the user does not say: in words, and found in a model, by branch name."""

    where: str
    find: Callable[[Scene], Mapping[str, str]]


class Biases(NamedTuple):
    """How biases learn where a release says so: in rates, and in decays, of their weights."""

    rate: float
    weight_decay: float


Arrange = Callable[["Method", Scene, Mapping[str, str]], Mapping[str, Preset]]
Mimicry = Callable[[Sequence[str]], Sequence[Edge]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method: what it does, its formula and source, where it departs from the source, and its defaults.

    `head`, `loss`, `weight`, `gradient` and `bracket` are those of every branch; `{epochs}` in a weight stands for the length of
    the training. `places` says where its branches go if the user does not; `published` says so for the networks of the
    paper alone, and elsewhere the user has to. `arrange` turns layers into branches where
    they are not all alike. `edges` are its terms between outputs, given the names of the branches; `main_weight` is for
    weights that sum to 1.
    """

    name: str = ""  # that of its builder, with the options that were given; `get` fills it in
    summary: str = ""  # the first line of its builder's docstring
    formula: str
    source: str
    deviations: str = "-"
    head: str = "auto"
    loss: str | losses.Loss = "cross_entropy"
    weight: str = "constant(1)"
    gradient: str = "add"
    bracket: Bracket | None = None
    rule: str = "drop"  # of the probe, for at="auto"
    bare: bool = False  # attaches no branches at all
    maps: bool = False  # for networks that predict maps
    heads: str = ""  # what `arrange` gives the branches, in words
    places: Places | None = None
    published: Places | None = None
    arrange: Arrange | None = None
    edges: Mimicry | None = None
    main_loss: str | losses.Loss = ""  # unless said, that of the branches
    main_weight: Callable[[int], float] | None = None  # given how many branches there are; None: 1
    by_epoch: bool = False  # ramps of its terms between outputs move from epoch to epoch
    dynamic: bool = False
    head_lr_factor: float = 1.0  # the rate of its heads, in rates of the model
    head_weight_decay: float | None = None  # of its heads; None: the model's
    classifier_lr_factor: float = 1.0  # of the layer that makes the main scores
    released_rates: bool = (
        False  # the rates that a released network of ours gives its layers, by its attribute of this name
    )
    biases: Biases | None = None  # of model and heads; None: as their weights
    rate: float | None = None  # of SGD, where the user says none; None: the trainer's
    rate_classes: int | None = None  # how many classes it is for: with more it falls in proportion; None: however many
    views: int = 1
    overlap: bool = False
    forwards: int = 1  # of overlapping batches: 2 gives each half one of its own
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.main_loss == "":
            object.__setattr__(self, "main_loss", self.loss)

    def check_at(self, at: Any) -> None:
        """Raise `ConfigError` where the probe is asked for places that the method knows itself."""
        if at == "auto" and self.places is not None:
            raise ConfigError(
                f"method '{self.name}' says itself where its branches go ({self.places.where}); at='auto' would ask the probe. "
                "Leave at out (supervise.at=null), or name layers."
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

    def rate_for(self, classes: int) -> float | None:
        """The rate of SGD where the user says none, for so many classes; None: the trainer's."""
        if self.rate is None or self.rate_classes is None:
            return self.rate
        return self.rate * min(1.0, self.rate_classes / classes)

    @property
    def rate_said(self) -> str:
        """The rate of SGD in words."""
        more = (
            f" (of C classes, more than {self.rate_classes}: {self.rate_classes} / C of it)"
            if self.rate_classes
            else ""
        )
        return f"{self.rate:g}{more}"

    def facts(self) -> dict[str, str]:
        """What there is to know about the method, by title, for people."""
        own = "at layers of your choice, or where the probe says"
        own = f"{self.published.where}; elsewhere {own}" if self.published else own
        branches = {"branches": self.places.where if self.places else own}
        branches |= {"head": self.heads or self.head, "loss": losses.show(self.loss)}
        branches["weight"] = self.weight.replace("{epochs}", "N")
        if self.gradient != "add":
            branches["gradient"] = self.gradient
        main = {"main loss": losses.show(self.main_loss)} if self.main_loss != "cross_entropy" else {}
        rate = {} if self.head_lr_factor == 1 else {"heads' rate": f"{self.head_lr_factor:g} of the model's"}
        if self.head_weight_decay is not None:
            rate["heads' weight decay"] = f"{self.head_weight_decay:g}"
        if self.classifier_lr_factor != 1:
            rate["main classifier's rate"] = f"{self.classifier_lr_factor:g} of the model's"
        if self.released_rates:
            rate["rates of layers"] = "those of the released network"
        if self.biases is not None:
            rate["biases"] = f"{self.biases.rate:g} of the rate of weights, {self.biases.weight_decay:g} of their decay"
        if self.rate is not None:
            rate["rate of SGD"] = f"{self.rate_said}, unless you say another"
        options = {"options": ", ".join(f"{k}={v!r}" for k, v in self.options.items())} if self.options else {}
        said = {
            "formula": self.formula,
            "source": self.source,
            **({} if self.bare else branches),
            **main,
            **rate,
            **options,
        }
        return {**said, "deviations": self.deviations}

    def preset(self, layer: str, **changes: Any) -> Preset:
        """A branch on `layer` with the method's defaults, but for `changes`."""
        usual = {part: getattr(self, part) for part in ("head", "loss", "weight", "gradient", "bracket")}
        return Preset(layer, **{**usual, **changes})


BUILDERS = Registry[Callable[..., Method]]("method", ConfigError, dashes=True)
METHODS: dict[str, Method] = {}  # all of them with their usual options; the room fills it in when it is imported
Positive: TypeAlias = Annotated[float, ABOVE_ZERO]
NotNegative: TypeAlias = Annotated[float, at_least(0)]
Share: TypeAlias = Annotated[float, between(0, 1)]


def get(text: str) -> Method:
    """The method that a text names, with its options. Raises `ConfigError` naming the known ones.

    >>> get("dhm(temperature=2)").name
    'dhm(temperature=2)'
    """
    if isinstance(text, str) and text in METHODS:
        return METHODS[text]
    name, options = BUILDERS.read(text)
    build = BUILDERS[name]
    usual = {option: p.default for option, p in inspect.signature(build).parameters.items()}
    summary = (inspect.getdoc(build) or name).partition("\n")[0].rstrip(".")
    first = summary.split()[0]
    if first == first.capitalize():  # BYOT and GoogLeNet stay as they are
        summary = summary[0].lower() + summary[1:]
    return replace(build(**options), name=show_call(name, options), summary=summary, options={**usual, **options})
