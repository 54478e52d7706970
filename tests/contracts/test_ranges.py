"""Numbers that are none, and texts where a number belongs: every option and every public call names them, and does nothing."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

import deepsup as ds
from deepsup.datasets.layouts import LAYOUTS
from deepsup.errors import DeepsupError
from deepsup.gradients import RULES
from deepsup.heads import HEADS
from deepsup.losses import LOSSES
from deepsup.methods import BUILDERS
from deepsup.schedules import SCHEDULES
from deepsup.specs import Registry, options
from tests.support.small_nets import Plain, images

REGISTRIES = (LOSSES, SCHEDULES, RULES, BUILDERS, HEADS, LAYOUTS)
READ_ELSEWHERE = (
    "schedule",
    "by",
    "blocks",
    "options",
)  # a schedule or a number, counts of stages, plain values by name
NO_NUMBERS = (math.nan, math.inf, -math.inf, 10**400, True, "x", "nan", [1])


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_option_of_everything_that_has_a_name_has_a_range(registry: Registry[Any]) -> None:
    for name, made in registry.items():
        hints = typing.get_type_hints(made)
        fields = [f.name for f in dataclasses.fields(made)] if dataclasses.is_dataclass(made) else []
        for option in fields or options(made, hidden=registry.hidden):
            if option in READ_ELSEWHERE:
                continue
            hint = str(hints[option])
            odd = [-math.inf, math.nan, math.inf, 10**400, object()]
            odd += [] if "bool" in hint else [True]
            odd += [] if "str" in hint else ["x"]
            for value in odd:
                with pytest.raises(DeepsupError, match=option):
                    registry.check(name, **{option: value})


def calls() -> Mapping[tuple[str, str], Callable[[Any], Any]]:
    """Every public function that takes a number, called with one."""
    net, x, y = Plain(), images(4), torch.arange(4) % 3
    made = ds.plan(net, x, at=["50%"])
    supervised = ds.attach(copy.deepcopy(net), made)
    seen = ds.probe(copy.deepcopy(net), [(x, y)], iterations=1)
    of_plan = {n: lambda v, n=n: ds.plan(net, x, at=["50%"], **{n: v}) for n in ("epochs", "classes", "classes_axis")}
    of_fit = {
        n: lambda v, n=n: ds.fit(nn.Flatten(), [(x, y)], **{n: v})
        for n in (
            "epochs", "lr", "schedule", "batch_size", "seed", "checkpoint_every", "validate_every", "patience",
        )
    }  # fmt: skip
    groups = ("lr", "weight_decay", "head_lr_factor", "head_weight_decay", "layer_decay")
    of_groups = {n: lambda v, n=n: ds.parameter_groups(supervised, **{"lr": 0.1, n: v}) for n in groups}
    of_groups["branch_lr_factors"] = lambda v: ds.parameter_groups(
        supervised, lr=0.1, branch_lr_factors={made.names[0]: v}
    )
    probed = ("iterations", "lr", "threshold")
    of_probe = {n: lambda v, n=n: ds.probe(net, [(x, y)], **{"iterations": 1, n: v}) for n in probed}
    rules = {"threshold": "threshold", "factor": "drop", "count": "evenly"}
    advice = {n: lambda v, n=n: seen.recommend(rules[n], **{n: v}) for n in rules}
    longer = {n: lambda v, n=n: seen.recommendation(rules[n], **{n: v}) for n in rules}
    found: dict[str, dict[str, Callable[[Any], Any]]] = {
        "plan": of_plan,
        "fit": of_fit,
        "parameter_groups": of_groups,
        "probe": of_probe,
        "Probe.recommend": advice,
        "Probe.recommendation": longer,
        "trace": {"seed": lambda v: ds.trace(net, x, seed=v)},
        "diagnose": {"batch_sizes": lambda v: ds.diagnose(net, x, at=["50%"], batch_sizes=[v])},
        "Objective": {"classes_axis": lambda v: ds.Objective(classes_axis=v)(torch.zeros(4, 3), y)},
        "Objective.__call__": {"progress": lambda v: ds.Objective(made)(supervised(x), y, progress=v)},
        "Supervised.set_progress": {"progress": supervised.set_progress},
        "Criterion": {"steps": lambda v: ds.Criterion(made, steps=v)},
    }
    return {(name, option): call for name, those in found.items() for option, call in those.items()}


CALLS = calls()
RECORDS = {
    "Branch",
    "Conflict",
    "Feature",
    "Plan",
    "Probe",
    "Terms",
    "Edge",
}  # `attach` and files check what a plan holds
NO_PLAIN_NUMBERS = {("Criterion", "progress"), ("Supervised.set_factors", "progress")}


def numbers() -> set[tuple[str, str]]:
    """Every parameter of every public function, class and method that is annotated as a number, or may be one."""
    found = set()
    for name in ds.__all__:
        thing = getattr(ds, name)
        own = inspect.getmembers(thing, inspect.isfunction) if inspect.isclass(thing) else []
        called = {name: thing} if callable(thing) and name not in RECORDS else {}
        called |= {f"{name}.{m}": f for m, f in own if m == "__call__" or m[0] != "_"}
        for full, function in called.items():
            if function.__module__.startswith("deepsup"):
                for option in inspect.signature(function).parameters.values():
                    if re.search(r"\b(int|float)\b", str(option.annotation)):
                        found.add((full, option.name))
    return found


def test_every_public_number_is_tried_here() -> None:
    assert numbers() == CALLS.keys() | NO_PLAIN_NUMBERS


@pytest.mark.parametrize(("called", "option"), CALLS)
@pytest.mark.filterwarnings("ignore")
def test_a_public_call_names_what_is_no_number(called: str, option: str) -> None:
    for value in NO_NUMBERS:
        with pytest.raises(DeepsupError):
            CALLS[called, option](value)
