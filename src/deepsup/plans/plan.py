"""A plan: which branches will be attached where, and what they cost, before anything is attached.

    >>> plan = ds.plan(model, sample, at=["layer1", "layer2"], method="cnds")
    >>> print(plan)

A plan is frozen, prints as a table, and is stored as JSON. Making one leaves no trace on the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from deepsup import gradients, heads, losses, schedules
from deepsup.errors import DeepsupError, PlanError
from deepsup.features import Feature, Pick, read_pick, show_pick
from deepsup.files import write_atomically
from deepsup.heads.cost import aligned
from deepsup.heads.cost import millions as millions
from deepsup.terms import TARGET, Bracket, Edge

FORMAT = 1
# What JSON holds as it is, of a plan and of a branch; and of these what plans did without when they were first written.
_OF_PLAN = ("model", "method", "classes", "fingerprint", "main_weight", "dynamic", "views", "overlap")
_OF_BRANCH = (
    *("name", "layer", "depth", "clone", "requires_grad", "params", "flops", "activation_bytes"),
    *("read_inside", "zero", "predicts"),
)
_LATER = ("main_weight", "dynamic", "views", "overlap", "read_inside", "zero", "predicts")


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
    extras: tuple[str, ...] = ()  # further outputs of the head, such as "feature"
    params: int = 0
    flops: int = 0
    activation_bytes: int = 0

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

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the branches, in the order in which their layers run."""
        return tuple(b.name for b in self.branches)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What `Outputs.aux` holds: every branch, followed by the further outputs of its head (`layer1/feature`)."""
        return tuple(name for b in self.branches for name in b.outputs)

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
            "branches": [b.to_dict() for b in self.branches],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that `to_dict` wrote. Raises `PlanError` for another format or a part that cannot be stored."""
        if data.get("format") != FORMAT:
            raise PlanError(f"this is not a plan of format {FORMAT}: found format {data.get('format')!r}. Plan again.")
        try:
            return cls(
                **_as_it_is(data, _OF_PLAN),
                branches=tuple(_read_branch(b) for b in data["branches"]),
                main=read_pick(data["main"]),
                input_shape=tuple(data["input_shape"]),
                params=data["trunk"]["params"],
                flops=data["trunk"]["flops"],
                notes=tuple(data["notes"]),
                main_loss=_read_loss(data.get("main_loss", "cross_entropy")),  # plans of 0.1 had no more than branches
                edges=tuple(_read_edge(e) for e in data.get("edges", ())),
            )
        except PlanError:
            raise
        except KeyError as error:
            raise PlanError(f"the plan is damaged: {error} is missing. Plan again.") from None
        except (DeepsupError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"the plan is damaged: {type(error).__name__}: {error}. Plan again.") from None

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON. Raises `PlanError` for heads, losses or schedules that only exist in Python."""
        _refuse_custom(self.to_dict())
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        write_atomically(Path(path), lambda file: file.write_text(text))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan that `save` wrote. Raises `PlanError` when the file is not one."""
        try:
            data = json.loads(Path(path).read_text())
        except ValueError as error:  # no JSON, or no text at all
            raise PlanError(f"{path} is not a plan: it is no valid JSON ({error}). Plan again and save it.") from None
        if not isinstance(data, dict):
            raise PlanError(f"{path} is not a plan: it holds {type(data).__name__}, not an object.")
        return cls.from_dict(data)

    def __str__(self) -> str:
        from_trunk = f"{self.model}: {millions(self.params)} parameters, {millions(self.flops)} FLOPs a sample"
        title = f"{len(self.branches)} branch{'' if len(self.branches) == 1 else 'es'} by method '{self.method}'"
        lines = [f"{from_trunk}; {title}"]
        if losses.show(self.main_loss) != "cross_entropy" or self.main_weight != 1:
            weight = f"{self.main_weight:.4g} * " if self.main_weight != 1 else ""
            lines.append(f"  main: {weight}{losses.show(self.main_loss)}")
        if self.branches:
            lines += _table(self.branches)
        lines += _mimicry(self.edges)
        if self.dynamic:
            lines.append("  each step drops a random part of the terms between outputs")
        if self.views > 1 or self.overlap:
            what = "two crops of each image" if self.views == 2 else "the samples of the one before as well"
            lines.append(f"  a batch holds {what}: twice the FLOPs")
        if self.branches:
            cost = self.cost
            lines.append(
                f"  training adds {_share(cost['head_params'], self.params)} parameters, "
                f"{_share(cost['head_flops'], self.flops)} FLOPs; inference adds nothing"
            )
        return "\n".join([*lines, *(f"  note: {n}" for n in self.notes)])


def _table(branches: Sequence[Branch]) -> list[str]:
    head = ["branch", "shape", "depth", "head", "loss", "weight", "gradient", "params", "FLOPs"]
    rows = [
        [
            b.name,
            str(b.feature) + ("" if b.feature.layout in ("NCHW", "NC") else f" {b.feature.layout}"),
            f"{b.depth:.0%}",
            heads.show(b.head),
            str(Edge(b.name, loss=b.loss, bracket=b.bracket)).replace(f"({b.name}, y)", ""),
            f"{b.weight.value:g}" if isinstance(b.weight, schedules.constant) else b.to_dict()["weight"],
            repr(b.gradient),
            millions(b.params),
            millions(b.flops),
        ]
        for b in branches
    ]
    lines = [head, *rows]
    if all(b.gradient == gradients.ADD for b in branches):
        lines = [line[:6] + line[7:] for line in lines]
    return aligned(lines, right={head.index("depth"), len(lines[0]) - 2, len(lines[0]) - 1})


def _mimicry(edges: Sequence[Edge]) -> list[str]:
    """Terms between outputs, those of one loss and weight in one line: `  1 * kl: main <- late; late <- main`."""
    groups: dict[str, list[str]] = {}
    for e in edges:
        weight = f"{e.weight.value:g}" if isinstance(e.weight, schedules.constant) else schedules.show(e.weight)
        arrow = f"{e.source}, {e.target}" if e.target == TARGET else f"{e.source} <- {e.target}"
        groups.setdefault(f"{weight} * {losses.show(e.loss)}", []).append(arrow)
    return [f"  {terms}: {'; '.join(arrows)}" for terms, arrows in groups.items()]


def _share(part: int, whole: int) -> str:
    if not whole:
        return millions(part)
    if part >= 10 * whole:
        return f"{part / whole:.0f} times the"
    return "under 0.1%" if 0 < part / whole < 5e-4 else f"{part / whole:.1%}"


def _read_branch(data: Mapping[str, Any]) -> Branch:
    _refuse_custom({"branches": [data]})
    heads.read(data["head"])
    return Branch(
        **_as_it_is(data, _OF_BRANCH),
        feature=Feature(tuple(data["shape"]), data["layout"]),
        head=data["head"],
        loss=_read_loss(data["loss"]),
        weight=schedules.parse(data["weight"]),
        gradient=gradients.parse(data.get("gradient", "add")),  # plans written before there were rules have none
        pick=read_pick(data["pick"]),
        bracket=None if data.get("gate") is None else Bracket(*data["gate"]),
        extras=tuple(data.get("extras", ())),
    )


def _as_it_is(data: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    return {part: data[part] for part in parts if part in data or part not in _LATER}


def _read_loss(text: str) -> str:
    losses.get(text)
    return text


def _read_edge(data: Mapping[str, Any]) -> Edge:
    return Edge(
        source=data["from"],
        target=data["to"],
        loss=_read_loss(data["loss"]),
        weight=schedules.parse(data["weight"]),
        bracket=None if data.get("gate") is None else Bracket(*data["gate"]),
        detach=data["detach"],
    )


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
