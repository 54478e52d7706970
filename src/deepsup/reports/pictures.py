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
    """Draw one of `PICTURES` by its name: `gradients`, `scores` or `ablation`; raises `ConfigError` for another one."""
    if kind not in PICTURES:
        raise ConfigError(f"there is no picture of {kind!r}. Choose: {', '.join(PICTURES)}.")
    return PICTURES[kind](path_in, out_png, group)


def gradient_picture(path_in: str | Path, out_png: str | Path, group: str | None = None) -> Path:
    """Draw the mean |gradient| of each layer over the first iterations, the baseline left, the supervised arm right.

    >>> gradient_picture("runs/demo", "docs/gradients.png", group="sgd")     # doctest: +SKIP

    Without `group` the first group with recorded gradients is drawn. A single run is one panel.
    """
    found = evidence(path_in)
    probed = {g: arms for g, arms in found.groups.items() if any(map(curves.first_iterations, arms.values()))}
    nothing = f"no gradients were recorded in {path_in}. Train with log.gradients above 0."
    name = next(iter(_chosen(group, probed, nothing)))
    arms = found.ordered(name)
    judge = next(iter(judged(_stated(found)[name])), "")
    order = sorted(arms, key=lambda arm: (arm != found.baselines[name], arm != judge))
    pair = {arm: arms[arm] for arm in order[:2] if curves.first_iterations(arms[arm])}
    return panels.save(partial(figures.gradients, pair, limits=figures.limits({name: pair})), out_png)


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


def score_picture(path_in: str | Path, out_png: str | Path, group: str | None = None) -> Path:
    """Draw the validation score over epochs: one panel a group (or only `group`), all arms in it.

    Thick: the networks' own outputs, mean over seeds and the range between them. Thin: the branches, of a few arms.
    """
    found = evidence(path_in)
    trained = {g: arms for g, arms in found.groups.items() if any(run.epochs for r in arms.values() for run in r)}
    nothing = f"no epoch has finished in {path_in}, so there is no score to draw yet."
    chosen = _chosen(group, trained, nothing)
    return panels.save(partial(figures.score, chosen, baselines=found.baselines, metric=found.metric), out_png)


def ablation_picture(path_in: str | Path, out_png: str | Path, group: str | None = None) -> Path:
    """Draw the score over the one setting that the arms of an ablation differ in: one panel a group (or only `group`)."""
    found = evidence(path_in)
    drawn = {
        name: stated for name, stated in _stated(found).items() if len(ablations.points(found.compare, stated)) > 1
    }
    nothing = (
        f"{path_in} holds no ablation with two finished values to draw. Compare arms that differ in one setting (vary)."
    )
    chosen = _chosen(group, drawn, nothing)
    compare = {**found.compare, "groups": list(chosen.values())}
    return panels.save(partial(ablations.ablation, compare, metric=found.metric), out_png)


PICTURES: Final[dict[str, Callable[[str | Path, str | Path, str | None], Path]]] = {
    "gradients": gradient_picture,
    "scores": score_picture,
    "ablation": ablation_picture,
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
