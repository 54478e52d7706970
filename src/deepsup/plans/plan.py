"""A plan: which branches will be attached where, and what they cost, before anything is attached.

    >>> plan = ds.plan(model, sample, at=["layer1", "layer2"], method="cnds")
    >>> print(plan)

A plan is frozen, prints as a table, and is stored as JSON. Making one leaves no trace on the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from deepsup import gradients, heads, losses, methods, schedules
from deepsup.errors import ConfigError, HeadError, LayerError, OutputError, PlanError
from deepsup.features import Feature, Pick, read_pick, show_pick, split_call
from deepsup.files import write_atomically
from deepsup.heads.cost import millions as millions
from deepsup.heads.older_heads import as_written
from deepsup.losses import import_paths
from deepsup.plans import plan_keys as keys
from deepsup.plans.embedding_layers import EMBEDDING, EmbeddingLayer, check_embeddings, main_feature
from deepsup.plans.naming import check_name, check_outputs, check_terms
from deepsup.plans.plan_text import mimicry, share, table
from deepsup.predictions import KINDS, Prediction
from deepsup.specs import FLAG, at_least, one_of
from deepsup.terms import ENSEMBLE, GATE, Bracket, Edge
from deepsup.trust import Trust
from deepsup.trust import check as check_trust

FORMAT = 1
# What JSON holds as it is, of a plan and of a branch.
_OF_PLAN = ("model", "method", "classes", "fingerprint", "main_weight", "dynamic", "views", "overlap", "forwards")
_OF_BRANCH = (
    *("name", "layer", "depth", "clone", "requires_grad", "params", "flops", "activation_bytes"),
    *("read_inside", "zero", "predicts", "optional"),
)


@dataclass(frozen=True)
class Branch:
    """One branch: the layer it reads, its head, its loss, its weight over training, and what it costs per sample."""

    name: str
    layer: str
    feature: Feature
    head: heads.HeadLike
    loss: str | losses.Loss
    weight: Callable[[float], float]
    gradient: gradients.Rule = gradients.ADD
    depth: float = 0.0
    pick: Pick = ()
    clone: bool = False
    requires_grad: bool = True
    read_inside: bool = False  # the layer also uses its output itself; see `traces.Layer`
    bracket: Bracket | None = None
    zero: bool = False  # the last layer of the head starts at zero
    predicts: bool = True  # the head gives class scores
    optional: bool = False  # the model may skip the layer; then the branch is left out of that step
    prediction: Prediction | None = None  # what the head gives out; None in plans from before it was known
    extras: tuple[str, ...] = ()  # further outputs of the head, such as "feature"
    params: int = 0
    flops: int = 0
    activation_bytes: int = 0

    def __post_init__(self) -> None:
        check_name(self.name, self.layer)
        if self.read_inside and self.gradient.needs_above:
            raise LayerError(
                f"layer '{self.layer}' uses its output again before it returns it, so the gradient rule {self.gradient!r} of "
                f"branch '{self.name}' would see a part only of what comes from above. Tap a layer inside or around it, or "
                "use add, scale, warmup or detach."
            )
        if split_call(self.layer)[1] < 0 and self.gradient != gradients.ADD:
            raise LayerError(
                f"branch '{self.name}' reads the last call, '{self.layer}', which is known only when the forward is over, so the "
                f"gradient rule {self.gradient!r} cannot be kept there. Name the call by its number, or use add."
            )
        if not heads.describe(self.head).scores and (self.zero or self.predicts or losses.describe(self.loss).scores):
            raise HeadError(
                f"the head of branch '{self.name}' ({heads.show(self.head)}) gives no class scores, so it can neither start at "
                f"zero nor predict nor have the loss {losses.show(self.loss)}. Choose a head that does, or loss='none'."
            )

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it adds to `Outputs.aux`: itself, and the further outputs of its head."""
        norm = ("norm",) if self.bracket is not None else ()
        return (self.name, *(f"{self.name}/{extra}" for extra in (*self.extras, *norm)))

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it; a user's own head or loss becomes the text `custom:NAME`."""
        return {
            **{part: getattr(self, part) for part in _OF_BRANCH},
            "pick": show_pick(self.pick),
            "shape": list(self.feature.shape),
            "layout": self.feature.layout,
            "head": heads.show(self.head),
            "loss": losses.show(self.loss),
            "weight": schedules.show(self.weight),
            "gradient": repr(self.gradient),
            "gate": None if self.bracket is None else list(self.bracket),
            "extras": list(self.extras),
            **({} if self.prediction is None else {"prediction": self.prediction.to_dict()}),
        }


@dataclass(frozen=True)
class Plan:
    """The branches of one model and what the dry run saw of it. Costs are per sample and forward pass."""

    model: str
    method: str
    branches: tuple[Branch, ...]
    classes: int
    main: Pick
    input_shape: tuple[int, ...]
    fingerprint: str
    params: int
    flops: int
    notes: tuple[str, ...] = ()
    main_loss: str | losses.Loss = "cross_entropy"
    main_weight: float = 1.0
    edges: tuple[Edge, ...] = ()  # besides main's and every branch's own
    dynamic: bool = False  # each step drops a random part of `edges`
    views: int = 1  # crops of each image that a batch holds
    overlap: bool = False  # a batch begins with the samples of the one before
    forwards: int = 1  # of such a batch: 2 gives each half one of its own
    prediction: Prediction | None = None  # what the main output is; None in plans from before it was known
    embeddings: tuple[EmbeddingLayer, ...] = ()  # where features and embeddings are, of outputs for which it was asked

    def __post_init__(self) -> None:
        check_outputs(self.outputs)
        own = {b.name: b.loss for b in self.branches if b.loss != "none"}
        check_terms(self.edges, own={"main": self.main_loss, **own}, outputs=self.outputs)
        check_embeddings(self.embeddings, {b.name: b.extras for b in self.branches})
        losses.check_channels(self.main_loss, self.classes)
        if not at_least(0).fits(self.main_weight):
            raise ConfigError(f"the weight of the main loss is a number of at least 0; found {self.main_weight!r}.")
        weighs = any(ENSEMBLE in (e.source, e.target) for e in self.edges)
        if weighs and any(b.name == GATE and b.predicts for b in self.branches):
            raise HeadError("the branch 'gate' weighs the outputs of the ensemble, so it cannot predict.")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the branches, in the order in which their layers run."""
        return tuple(b.name for b in self.branches)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What `Outputs.aux` holds: main's feature where a term reads it, every branch, each with the further outputs of its
        head (`layer1/feature`). Empty where nothing is attached."""
        return (*main_feature(self.embeddings), *(name for b in self.branches for name in b.outputs))

    @property
    def cost(self) -> dict[str, int]:
        """Parameters and FLOPs of the trunk and of all heads together."""
        return {
            "trunk_params": self.params,
            "head_params": sum(b.params for b in self.branches),
            "trunk_flops": self.flops,
            "head_flops": sum(b.flops for b in self.branches),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything JSON can hold; `custom:` texts stand for the user's own heads, losses and schedules."""
        return {
            "format": FORMAT,
            **{part: getattr(self, part) for part in _OF_PLAN},
            "main": show_pick(self.main),
            "input_shape": list(self.input_shape),
            "trunk": {"params": self.params, "flops": self.flops},
            "notes": list(self.notes),
            "main_loss": losses.show(self.main_loss),
            "edges": [e.to_dict() for e in self.edges],
            **({} if self.prediction is None else {"prediction": self.prediction.to_dict()}),
            "branches": [b.to_dict() for b in self.branches],
            **({"embeddings": [e.to_dict() for e in self.embeddings]} if self.embeddings else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trust: Trust = False) -> Plan:
        """The plan that `to_dict` wrote, checked like one that was made in Python.

        Raises `PlanError` for another format, and with the key, what was found and what is allowed for all else;
        `TrustError` for heads and losses that would be imported from elsewhere, unless `trust` allows it.
        """
        return cls._of(data, "the plan", trust)

    @classmethod
    def _of(cls, data: Mapping[str, Any], where: str, trust: Trust) -> Plan:
        found = data.get("format") if isinstance(data, Mapping) else None
        if found != FORMAT or type(found) is not int:
            what = f"format {found!r}" if isinstance(data, Mapping) else f"a {type(data).__name__}"
            raise PlanError(f"this is not a plan of format {FORMAT}: found {what:.200}. Plan again.")
        plan: Plan = keys.parsed(data, _PLAN)
        chosen = (plan.main_loss, *(b.loss for b in plan.branches), *(e.loss for e in plan.edges))
        asked = [one for b in plan.branches for one in heads.asks(b.head)]
        check_trust([*asked, *(one for loss in chosen for one in import_paths.asks(loss))], where=where, trust=trust)
        return plan

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON. Raises `PlanError` for heads, losses or schedules that only exist in Python."""
        _refuse_custom(self.to_dict())
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        write_atomically(Path(path), lambda file: file.write_text(text))

    @classmethod
    def load(cls, path: str | Path, *, trust: Trust = False) -> Plan:
        """Read a plan that `save` wrote. Raises `PlanError` when the file is not one, `TrustError` as `from_dict` does."""
        data = keys.read_json(Path(path))
        if not isinstance(data, dict):
            raise PlanError(f"{path} is not a plan: it holds {type(data).__name__}, not an object.")
        try:
            return cls._of(data, str(path), trust)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from None

    def __str__(self) -> str:
        from_trunk = f"{self.model}: {millions(self.params)} parameters, {millions(self.flops)} FLOPs a sample"
        title = f"{len(self.branches)} branch{'' if len(self.branches) == 1 else 'es'} by method '{self.method}'"
        lines = [f"{from_trunk}; {title}"]
        weight = f"{self.main_weight:.4g} * " if self.main_weight != 1 else ""
        if self.prediction is not None:
            lines.append(f"  main: {weight}{losses.show(self.main_loss)} of {self.prediction}")
        elif losses.show(self.main_loss) != "cross_entropy" or weight:
            lines.append(f"  main: {weight}{losses.show(self.main_loss)}")
        if self.branches:
            lines += table(self.branches)
        lines += mimicry(self.edges)
        if self.dynamic:
            lines.append("  each step drops a random part of the terms between outputs")
        if self.views > 1 or self.overlap:
            what = "two crops of each image" if self.views == 2 else "the samples of the one before as well"
            lines.append(f"  a batch holds {what}: twice the FLOPs")
        if self.forwards == 2:
            lines.append("  each half of a batch has a forward of its own")
        if self.branches:
            cost = self.cost
            lines.append(
                f"  training adds {share(cost['head_params'], self.params)} parameters, "
                f"{share(cost['head_flops'], self.flops)} FLOPs; inference adds nothing"
            )
        return "\n".join([*lines, *(f"  note: {n}" for n in self.notes)])


def _branch(*, shape: Sequence[int], layout: str, gate: Bracket | None, **parts: Any) -> Branch:
    return Branch(feature=Feature(tuple(shape), layout), bracket=gate, **parts)


def _edge(*, to: str, gate: Bracket | None, **parts: Any) -> Edge:
    return Edge(source=parts.pop("from"), target=to, bracket=gate, **parts)


def _plan(*, format: int, trunk: dict[str, Any], branches: Sequence[Branch], classes: int, **parts: Any) -> Plan:
    found = (replace(b, head=as_written(b.head, b.feature, classes, b.params)) for b in branches)
    return Plan(**trunk, branches=tuple(found), classes=classes, **parts)


def _pick(text: str) -> Pick:
    pick = read_pick(text)
    if show_pick(pick) != text:
        raise OutputError("it is no path to a tensor. Write '', '0', 'hidden' or 'states.0'.")
    return pick


def _known(check: Callable[[str], object]) -> Callable[[str], str]:
    """A text that stays a text once it has been checked."""

    def read(text: str) -> str:
        check(text)
        return text

    return read


_LOSS = keys.Key(keys.SPEC, _known(losses.check))
_WEIGHT = keys.Key(keys.WEIGHT, schedules.parse)
_GATE = keys.Key(keys.BRACKET, lambda pair: None if pair is None else Bracket(*pair))
_PREDICTION = keys.Key(
    keys.Record(
        {
            "kind": keys.Key(one_of(*KINDS)),
            "axis": keys.Key(one_of(1, -1)),
            "classes": keys.Key(keys.ABOVE_0),
            "places": keys.Key(keys.COUNT),
            "source": keys.Key(keys.NAME),
        },
        Prediction,
    ),
    since=6,
)
_COSTS = dict.fromkeys(("params", "flops"), keys.Key(keys.COUNT))

# What a plan of JSON is made of. The younger keys, by the time when each came: 1 rules, 2 layers that read their own
# output, 3 terms between outputs, 4 methods whose weights sum to 1, 5 layers that the model may skip, 6 what outputs are,
# 7 forwards of each half, 8 where their embeddings are, in plans that say it.
_BRANCH_KEYS = {
    **dict.fromkeys(("name", "layer"), keys.Key(keys.NAME)),
    "pick": keys.Key(keys.TEXT, _pick),
    "shape": keys.Key(keys.SHAPE),
    "layout": keys.Key(keys.NAME),
    "depth": keys.Key(keys.SHARE),
    "head": keys.Key(keys.SPEC, _known(heads.read)),
    "loss": _LOSS,
    "weight": _WEIGHT,
    "gradient": keys.Key(keys.SPEC, gradients.parse, since=1, absent=gradients.ADD),
    **dict.fromkeys(("clone", "requires_grad"), keys.Key(FLAG)),
    "read_inside": keys.Key(FLAG, since=2, absent=False),
    "gate": replace(_GATE, since=3),
    "zero": keys.Key(FLAG, since=3, absent=False),
    "predicts": keys.Key(FLAG, since=3, absent=True),
    "optional": keys.Key(FLAG, since=5, absent=False),
    "extras": keys.Key(keys.NAMES, tuple, since=3, absent=()),
    "prediction": _PREDICTION,
    **_COSTS,
    "activation_bytes": keys.Key(keys.COUNT),
}
_EDGE_KEYS = {
    **dict.fromkeys(("from", "to"), keys.Key(keys.NAME)),
    "loss": _LOSS,
    "weight": _WEIGHT,
    "gate": _GATE,
    "detach": keys.Key(FLAG),
}
_PLAN_KEYS = {
    "format": keys.Key(keys.COUNT),
    "model": keys.Key(keys.NAME),
    "method": keys.Key(keys.SPEC, _known(methods.get)),
    "classes": keys.Key(keys.ABOVE_0),
    "main": keys.Key(keys.TEXT, _pick),
    "input_shape": keys.Key(keys.SHAPE, tuple),
    "fingerprint": keys.Key(keys.FINGERPRINT),
    "trunk": keys.Key(keys.Record(_COSTS)),
    "notes": keys.Key(keys.TEXTS, tuple),
    "main_loss": replace(_LOSS, since=3, absent="cross_entropy"),
    "main_weight": keys.Key(at_least(0), since=4, absent=1.0),
    "edges": keys.Key(keys.Record(_EDGE_KEYS, _edge), many=True, since=3, absent=()),
    "dynamic": keys.Key(FLAG, since=3, absent=False),
    "views": keys.Key(one_of(1, 2), since=3, absent=1),
    "overlap": keys.Key(FLAG, since=3, absent=False),
    "forwards": keys.Key(one_of(1, 2), since=7, absent=1),
    "prediction": _PREDICTION,
    "branches": keys.Key(keys.Record(_BRANCH_KEYS, _branch), many=True),
    "embeddings": keys.Key(EMBEDDING, many=True, since=8, absent=()),
}
_PLAN = keys.Record(_PLAN_KEYS, _plan)


def _refuse_custom(data: Mapping[str, Any]) -> None:
    edges = data.get("edges", ())
    for where, text in [
        ("the main output", data.get("main_loss")),
        *((e["from"], e[part]) for e in edges for part in ("loss", "weight")),
    ]:
        if str(text).startswith("custom:"):
            raise PlanError(
                f"{where} has a loss or weight of your own ({text}), which JSON cannot hold. Make this plan in Python."
            )
    for branch in data["branches"]:
        for part in ("head", "loss", "weight", "gradient"):
            if str(branch.get(part)).startswith("custom:"):
                raise PlanError(
                    f"branch '{branch['name']}' has a {part} of your own ({branch[part]}), which JSON cannot hold. "
                    f"Make this plan in Python, or use a {part} that has a name."
                )


def fingerprint(model: nn.Module) -> str:
    """12 hex digits over the names and types of all layers and the names and shapes of all parameters."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        digest.update(f"{name}:{type(module).__name__};".encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name}:{tuple(parameter.shape)};".encode())
    return digest.hexdigest()[:12]
