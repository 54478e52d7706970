"""Still pictures for a README: figures of the page, saved as PNG."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from deepsup.errors import ConfigError
from deepsup.reports import ablations, curves, figures, panels
from deepsup.reports.summary import Evidence, evidence, judged
from deepsup.specs import counted
from deepsup.training.records import Gradients, Run

if TYPE_CHECKING:
    from deepsup.probes import Probe

_Group = TypeVar("_Group")


def picture(kind: str, path_in: str | Path, out_png: str | Path, group: str | None = None) -> Path:
    """Draw one of `PICTURES` of the run or comparison at `path_in` by its name: `gradients`, `scores` or `ablation`.

    >>> picture("gradients", "runs/demo", "docs/gradients.png", group="sgd")     # doctest: +SKIP

    With a `group` that one alone. Raises `ConfigError` for another name, and where there is nothing to draw.
    """
    if kind not in PICTURES:
        raise ConfigError(f"there is no picture of {kind!r}. Choose: {', '.join(PICTURES)}.")
    return panels.save(PICTURES[kind](evidence(path_in), group), out_png)


def _gradients(found: Evidence, group: str | None) -> panels.Draw:
    """The mean |gradient| of each layer over the first iterations, the baseline left, the supervised arm right.

    Of the first group that has any, if none is named. A single run is one panel.
    """
    probed = {g: arms for g, arms in found.groups.items() if any(map(curves.first_iterations, arms.values()))}
    nothing = f"no gradients were recorded in {found.path}. Train with log.gradients above 0."
    name = next(iter(_chosen(group, probed, nothing)))
    arms, judge = found.ordered(name), next(iter(judged(_stated(found)[name])), "")
    order = sorted(arms, key=lambda arm: (arm != found.baselines[name], arm != judge))
    pair = {arm: arms[arm] for arm in order[:2] if curves.first_iterations(arms[arm])}
    return partial(figures.gradients, pair, limits=figures.limits({name: pair}))


def _scores(found: Evidence, group: str | None) -> panels.Draw:
    """The validation score over epochs: one panel a group, all arms in it."""
    trained = {g: arms for g, arms in found.groups.items() if any(run.epochs for r in arms.values() for run in r)}
    chosen = _chosen(group, trained, f"no epoch has finished in {found.path}, so there is no score to draw yet.")
    return partial(figures.score, chosen, baselines=found.baselines, metric=found.metric)


def _ablation(found: Evidence, group: str | None) -> panels.Draw:
    """The score over the one setting that the arms of an ablation differ in: one panel a group."""
    drawn = {name: told for name, told in _stated(found).items() if len(ablations.points(found.compare, told)) > 1}
    nothing = f"{found.path} holds no ablation with two finished values to draw. Compare arms that differ in one setting (vary)."
    compare = {**found.compare, "groups": list(_chosen(group, drawn, nothing).values())}
    return partial(ablations.ablation, compare, metric=found.metric)


PICTURES: Final[dict[str, Callable[[Evidence, str | None], panels.Draw]]] = {
    "gradients": _gradients,
    "scores": _scores,
    "ablation": _ablation,
}


def _stated(found: Evidence) -> dict[str, Mapping[str, Any]]:
    return {group["name"]: group for group in found.compare["groups"]}


def _chosen(group: str | None, groups: Mapping[str, _Group], nothing: str) -> Mapping[str, _Group]:
    """Return the groups to draw, all of them or the one that was named; `nothing` says that there is none."""
    if not groups:
        raise ConfigError(nothing)
    if group is None:
        return groups
    if group not in groups:
        raise ConfigError(f"no group {group!r} with something to draw. There is: {', '.join(map(repr, groups))}.")
    return {group: groups[group]}


def gradient_figure(before: Probe, after: Probe, out_png: str | Path) -> Path:
    """Draw two probes of one model, without and with branches: each layer over the iterations, and all along the depth.

    >>> gradient_figure(ds.probe(model, loader), ds.probe(net, loader, objective=total), "gradients.png")  # doctest: +SKIP

    Raises `ConfigError` for probes of different models.
    """
    if [row.layer for row in before.rows] != [row.layer for row in after.rows]:
        raise ConfigError(
            f"these are probes of different models: {before.model} with {len(before.rows)} layers, {after.model} with "
            f"{len(after.rows)}. Probe the same model without and with branches."
        )
    n = len(after.branches)
    arms = {"without branches": (_seen(before),), f"with {counted(n, 'branch', 'branches')}": (_seen(after),)}
    look: dict[str, Any] = {"threshold": before.threshold, "along": "layer by layer"}
    return panels.save(partial(figures.gradients, arms, limits=figures.limits({"": arms}), **look), out_png)


def _seen(probe: Probe) -> Run:
    """Return a run that never was, whose first iterations are those of the probe."""
    n = len(probe.rows)
    last = {row.tap: i for i, row in enumerate(probe.rows, start=1)}  # the layer in front of each branch
    branches = [{"depth": last[tap] / n} for tap in probe.branches if tap in last]
    steps = zip(*(row.gradients for row in probe.rows), strict=False)
    layers = [row.layer for row in probe.rows]
    records = [Gradients(i, dict(zip(layers, step, strict=True))) for i, step in enumerate(steps, start=1)]
    return Run(Path(), "", "", "", None, {}, {"branches": branches}, {}, {}, gradients=tuple(records))
