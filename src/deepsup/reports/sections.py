"""What a run says about itself beside its curves, in words: what was checked, where branches went and why, who pulled."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepsup.reports import curves, formats
from deepsup.reports.formats import known, listing, magnitude
from deepsup.reports.summary import Evidence
from deepsup.training.records import Gradients, Pull, Run

_RULES: Final = {
    "threshold": "one branch, after the deepest layer whose mean gradient is under a threshold, as in CNDS, the paper that "
    "set branches against vanishing gradients.",
    "drop": "one branch wherever, on the way down from the output, the gradient has fallen to a fraction of what it was.",
    "evenly": "branches at even distances between input and output, whatever the gradients.",
}
_SHOWN: Final = 5
"""Places without a branch that are shown at once."""


def path(group: str, arm: str) -> str:
    """Return how an arm is called in a sentence."""
    return f"{group} / {arm}" if group else arm


def owners(runs: Sequence[Run], everyone: Sequence[Run]) -> str:
    """Name arms where all runs of them are meant, and else the runs."""
    arms = list(dict.fromkeys((run.group, run.arm) for run in runs))
    whole = all(run in runs for run in everyone if (run.group, run.arm) in arms)
    return listing([path(*arm) for arm in arms] if whole else [run.name for run in runs])


def findings(found: Evidence) -> dict[str, Any] | None:
    """Return what the doctor said, each different finding once, errors first; None where no run was checked."""
    checked = [run for run in found.runs if run.findings is not None]
    if not checked:
        return None
    by_text: dict[str, tuple[Mapping[str, Any], list[Run]]] = {}
    for run in checked:
        for finding in run.findings or ():
            members = by_text.setdefault(json.dumps(finding, sort_keys=True), (finding, []))[1]
            members += [run] if run not in members else []
    rows = [
        {
            "where": str(finding.get("where") or formats.NONE),
            "what": _stopped(finding.get("what")),
        }  # may begin with a name
        | {key: _sentence(finding.get(key)) for key in ("why", "fix")}
        | {"error": finding.get("severity") == "error", "owners": owners(runs, found.runs)}
        for finding, runs in by_text.values()
    ]
    rows.sort(key=lambda row: not row["error"])
    unchecked = [run for run in found.runs if run.findings is None]
    return {
        "rows": rows,
        "owners": None if found.single else owners(checked, found.runs),
        "unchecked": owners(unchecked, found.runs) if unchecked else None,
    }


def placements(found: Evidence) -> list[dict[str, Any]]:
    """Return each different choice of layers once, with its reason and the places that were weighed."""
    different: dict[str, list[Run]] = {}
    for run in found.runs:
        if run.placement:
            key = json.dumps([run.placement.get("rule"), run.placement.get("layers")])
            different.setdefault(key, []).append(run)
    result = []
    for runs in different.values():
        stated = runs[0].placement or {}
        layers = [str(layer) for layer in stated.get("layers") or ()]
        places = _places(stated, layers)
        cut = sum(place["chosen"] for place in places) + _SHOWN
        result.append(
            {
                "owners": owners(runs, found.runs),
                "first": runs[0].name if len(runs) > 1 else None,
                "layers": layers,
                "rule": str(stated.get("rule") or formats.NONE),
                "meaning": _RULES.get(str(stated.get("rule")), ""),
                "reason": _sentence(stated.get("reason")) if stated.get("reason") else None,
                "shown": places[:cut],
                "hidden": places[cut:],
            }
        )
    return result


def _places(stated: Mapping[str, Any], chosen: Sequence[str]) -> list[dict[str, Any]]:
    """Return the places for a branch that the probe weighed: those chosen, then from the weakest gradient up.

    A place counts with the weakest layer between the place before it and itself. Reads what is there of `rows` and
    `points`; a probe that holds neither gives nothing.
    """
    probe = stated.get("probe") if isinstance(stated.get("probe"), Mapping) else {}
    points = {point.get("layer"): point for point in _objects(probe, "points")}
    weakest: dict[str, Mapping[str, Any]] = {}
    for row in _objects(probe, "rows"):
        tap, value = row.get("tap"), _mean(row)
        if tap is not None and known(value) and (tap not in weakest or value < _mean(weakest[tap])):
            weakest[str(tap)] = row
    places = [
        {
            "layer": tap,
            "chosen": tap in chosen,
            "depth": points.get(tap, row).get("depth"),
            "shape": points.get(tap, {}).get("shape"),
            "gradient": _mean(row),
            "weakest": str(row.get("layer") or formats.NONE),
            "vanished": _mean(row, "vanished"),
        }
        for tap, row in weakest.items()
    ]
    return sorted(places, key=lambda place: (not place["chosen"], place["gradient"]))


def before(run: Run) -> Run | None:
    """Return a run that never was, with the gradients that the probe saw before the branches of `run` were attached.

    One record an iteration where the whole probe was written down, one record of means where only those were; None
    where there was no probe, or no branch came of it.
    """
    stated = run.placement or {}
    if not (run.plan or {}).get("branches") or not stated.get("gradients"):
        return None
    rows = {str(row.get("layer")): _values(row) for row in _objects(stated.get("probe") or {}, "rows")}
    steps = min(map(len, rows.values()), default=0)
    records = [Gradients(i + 1, {layer: values[i] for layer, values in rows.items()}) for i in range(steps)]
    records = records or [Gradients(0, stated["gradients"])]
    return dataclasses.replace(run, plan=None, gradients=tuple(records), conflicts=(), findings=None, placement=None)


def gradients(groups: Mapping[str, Mapping[str, Sequence[Run]]], baselines: Mapping[str, str | None]) -> list[str]:
    """Return, for each arm, its weakest layer, and then how much more gradient the weakest of the baseline gets in it.

    All over as many iterations.
    """
    weakest, gains = [], []
    for group, every in groups.items():
        arms, n = curves.same_span(every)
        means_alone = any(run.gradients and run.gradients[-1].step == 0 for runs in arms.values() for run in runs)
        span = "" if means_alone else f", over the first {n} iterations of each"
        reference = curves.profile(arms.get(baselines.get(group) or "", ())).positive()
        for arm, runs in arms.items():
            profile = curves.profile(runs)
            values = dict(zip(profile.x, profile.mean, strict=True))
            if not values:
                continue
            smallest, layer = min(zip(profile.mean, profile.x, strict=True))
            under = sum(value < curves.THRESHOLD for value in profile.mean)
            weakest.append(
                f"{path(group, arm)}: the smallest mean gradient is {magnitude(smallest)}, in {layer}; "
                f"{under} of {len(values)} layers are under {magnitude(curves.THRESHOLD)}."
            )
            least, layer = min(zip(reference.mean, reference.x, strict=True), default=(0.0, ""))
            if arm != baselines.get(group) and values.get(layer):
                gains.append(
                    f"{path(group, arm)}: {layer}, the weakest layer of “{baselines[group]}”, gets "
                    f"{formats.strength(values[layer] / least)} times that gradient "
                    f"({magnitude(values[layer])} instead of {magnitude(least)}{span})."
                )
    return weakest + gains


def pulls(found: Evidence) -> list[str]:
    """Return one sentence for each branch of each arm: how often and how strongly it pulled against the rest."""
    sentences = []
    for group, arms in found.groups.items():
        for arm, runs in arms.items():
            steps, cosines = curves.looked_for(runs), curves.at_parameters(runs)
            for branch, (pull, early, late) in curves.pulls(runs).items():
                told = _told(branch, pull, early, late, steps) if pull else ""
                told += _at_parameters(cosines.get(branch))
                sentences.append(_sentence(told) if found.single else f"{path(group, arm)}: {told}")
    return sentences


def _told(branch: str, pull: Pull, early: Pull | None, late: Pull | None, looked_for: int) -> str:
    of_all = f" (of {looked_for})" if pull.met < looked_for else ""
    steps = f"the {pull.met} steps in which both gradients reached the layer{of_all}"
    when = ""
    if early and late and abs(early.share - late.share) >= 0.2:
        when = f" ({_share(early.share)} in the first half of training, {_share(late.share)} in the second)"
    if pull.kept < 0:
        left = "turned what they asked for around"
    elif round(pull.kept, 2) < 1:
        left = f"left {_share(pull.kept)} of what they asked for"
    else:
        added = round(pull.kept, 2) > 1
        left = f"added {_share(pull.kept - 1)} to what they asked for" if added else "took nothing from them"
    against = f"for {_share(pull.share)} of {steps}{when} the branch at {branch} pulled"
    if pull.share == 0:
        against = f"in none of {steps} did the branch at {branch} pull"
    return (
        f"{against} against what the layers above wanted. Its pull was {formats.strength(pull.ratio)} times as strong as "
        f"theirs and, over these steps, {left}."
    )


def _at_parameters(cosines: Sequence[float] | None) -> str:
    if not cosines:
        return ""
    against = sum(c < 0 for c in cosines) / len(cosines)
    return (
        f" At the parameters that both train, looked at in {len(cosines)} steps, the agreement was "
        f"{statistics.fmean(cosines):+.2f}; there it pulled against the rest in {_share(against)} of them."
    )


def _share(value: float) -> str:
    return "under 1 %" if 0 < value < 0.005 else f"{100 * value:.0f} %"


def _sentence(text: Any) -> str:
    """Return a text as a sentence: a capital first, a full stop last."""
    stopped = _stopped(text)
    return stopped[:1].upper() + stopped[1:]


def _stopped(text: Any) -> str:
    stripped = str(text or "").strip()
    return stripped + ("" if stripped.endswith((".", "!", "?")) or not stripped else ".")


def _objects(holder: Any, key: str) -> list[Mapping[str, Any]]:
    found = holder.get(key) if isinstance(holder, Mapping) else None
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, Sequence) else []


def _values(row: Mapping[str, Any], quantity: str = "mean") -> list[float]:
    """Return what the probe saw of the weight's gradient in each iteration."""
    weight = row.get("weight")
    values = weight.get(quantity) if isinstance(weight, Mapping) else None
    return [float(value) for value in values if known(value)] if isinstance(values, Sequence) else []


def _mean(row: Mapping[str, Any], quantity: str = "mean") -> float:
    values = _values(row, quantity)
    return statistics.fmean(values) if values else float("nan")
