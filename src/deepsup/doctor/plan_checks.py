"""Traps of the plan: what `plan` or `attach` would refuse, branch by branch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from deepsup import methods
from deepsup.doctor.findings import ERROR, Finding, branch, error, from_error
from deepsup.doctor.layer_checks import LAYER_READ_INSIDE, layer_refusal, refusal
from deepsup.errors import BranchNameError, ConfigError, LayerError, PlanError
from deepsup.layers.wrappers import clean
from deepsup.plans.plan import Plan
from deepsup.plans.planning import plan as make_plan

PER_BRANCH = (
    "head",
    "branch_loss",
    "weight",
    "gradient",
    "zero_heads",
    "optional",
)  # options of plan that may be mappings by branch name

FOREIGN_PLAN = error(
    "foreign-plan",
    why="Attaching is refused: layers and shapes are not those that were planned for",
    fix="Plan again for this model",
    raised=PlanError,
)
UNKNOWN_BRANCH = error(
    "unknown-branch",
    why="Planning stops at a name that means no branch",
    fix="Use the names of the branches",
    raised=BranchNameError,
)
BAD_SETTING = error("bad-setting", why="Planning stops here", fix="Correct the setting", raised=ConfigError)


def one_by_one(
    core: nn.Module,
    sample: Any,
    selectors: dict[str, Any],
    options: dict[str, Any],
    whole: Exception,
    found: list[Finding],
) -> Plan | None:
    """What can be planned, selector by selector, when all together are refused with `whole`."""
    plain = {k: v for k, v in options.items() if k not in PER_BRANCH and not k.startswith("embedding")}
    parts: list[Plan] = []
    said = len(found)
    names: set[str] = set()
    for name, at in selectors.items():
        try:
            alone = make_plan(
                core, sample, at, head="pool", branch_loss=lambda prediction, _: prediction.sum(), **plain
            )
        except Exception as error:
            names.add(name)
            found.append(layer_refusal(error, name, core, sample))
            continue
        names |= set(alone.names)
        own = {k: v for k, v in options.items() if k in PER_BRANCH}
        own |= {k: {n: v[n] for n in v if n in alone.names} for k, v in own.items() if isinstance(v, Mapping)}
        try:
            parts.append(make_plan(core, sample, at, **plain, **own))
        except Exception as error:
            where = branch(", ".join(alone.names))
            refused = refusal(error, where)
            if isinstance(error, LayerError):  # the layer itself can be tapped, only not with this gradient rule
                refused = replace(from_error(error, where, trap=LAYER_READ_INSIDE), severity=ERROR)
            found.append(refused)
    for part in PER_BRANCH:
        given = options.get(part)
        for name in [k for k in given if k not in names] if isinstance(given, Mapping) else []:
            fix = f"Use the names of the branches: {', '.join(sorted(names))}"
            found.append(UNKNOWN_BRANCH.found(branch(name), f"{part}= names it, and there is no such branch", fix=fix))
    if len(found) == said:
        found.append(refusal(whole, "plan"))
    if not parts:
        return None
    merged = {b.name: b for p in parts for b in p.branches}
    return replace(parts[0], branches=tuple(sorted(merged.values(), key=lambda b: b.depth)))


def selectors(at: Any) -> dict[str, Any]:
    """Branch name or selector -> what to plan for it alone; empty where `at` cannot be taken apart."""
    if isinstance(at, Mapping):
        return {str(k): {str(k): v} for k, v in at.items()}
    if at is None or at == "auto" or not isinstance(at, (str, int, Iterable)):
        return {}
    return {str(s): [s] for s in ([at] if isinstance(at, (str, int)) else list(at))}


def cleaned(at: Any) -> Any:
    """The selectors without the parts that compiling adds to names."""
    if isinstance(at, Mapping):
        return {k: clean(str(v)) for k, v in at.items()}
    if isinstance(at, str):
        return clean(at)
    return [clean(str(s)) for s in at] if isinstance(at, Iterable) else at


def places_itself(options: Mapping[str, Any]) -> bool:
    """Whether the method says where its branches go, or has none."""
    try:
        method = methods.get(options.get("method", "aux"))
    except ConfigError:
        return True  # plan says best what is wrong with it
    return method.places is not None or method.bare
