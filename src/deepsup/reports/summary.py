"""What a comparison says, completed from the journals of its runs where it says nothing yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepsup.comparisons.arm_records import arm_record, known
from deepsup.datasets.layouts import task_of
from deepsup.errors import ConfigError
from deepsup.reports.formats import listing
from deepsup.reports.metrics import score, unit
from deepsup.training import run_folders
from deepsup.training.records import ACCURACY, Run


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that lies on disk about one run or one comparison.

    `compare` has the schema of compare.json. What the file lacks (a comparison under way, a single run) is computed
    from the journals; what it states is left alone, and `notes` says so where the two disagree.
    """

    path: Path
    compare: Mapping[str, Any]
    runs: tuple[Run, ...]
    notes: tuple[str, ...]

    @property
    def metric(self) -> str:
        """The name of the score that counts."""
        return str(self.compare.get("metric") or ACCURACY)

    @property
    def task(self) -> str | None:
        """What the images are labelled for; None where the settings do not say, as those of `fit`."""
        data = next((d for run in self.runs if isinstance(d := run.config.get("data"), Mapping)), {})
        return task_of(str(data["name"])) if "name" in data else None

    @property
    def single(self) -> bool:
        """Whether this is one run, so that there is nothing to compare it with."""
        return (self.path / run_folders.JOURNAL).is_file()

    @property
    def baselines(self) -> dict[str, str | None]:
        """The arm of each group that the others are measured against."""
        return {group["name"]: baseline(group) for group in self.compare["groups"]}

    def ordered(self, group: str) -> dict[str, tuple[Run, ...]]:
        """The arms of a group that have runs, the baseline first."""
        arms = self.groups[group]
        return {
            arm: arms[arm] for arm in dict.fromkeys((self.baselines[group], *arms)) if arm is not None and arms.get(arm)
        }

    @property
    def groups(self) -> dict[str, dict[str, tuple[Run, ...]]]:
        """The runs by group and arm, in the order of the comparison."""
        result: dict[str, dict[str, tuple[Run, ...]]] = {
            group["name"]: dict.fromkeys(group["arms"], ()) for group in self.compare["groups"]
        }
        for run in self.runs:
            result[run.group][run.arm] += (run,)
        return result


def evidence(path: str | Path) -> Evidence:
    """Read everything about the run or comparison at `path`.

    >>> judged(evidence("runs/demo").compare["groups"][0])["dhm"]["verdict"]      # doctest: +SKIP
    """
    folder = Path(path)
    runs = run_folders.runs(folder)
    stated = None if (folder / run_folders.JOURNAL).is_file() else run_folders.comparison(folder)
    if not runs and not (stated or {}).get("groups"):
        raise ConfigError(f"nothing to report in {folder}: no run has written its first record yet.")
    compare = complete(stated or {}, runs, folder=folder)
    return Evidence(folder, compare, tuple(runs), tuple(notes(stated, compare, runs, folder=folder)))


def complete(stated: Mapping[str, Any], runs: Sequence[Run], *, folder: Path) -> dict[str, Any]:
    """Return the comparison `stated` with every field that it lacks computed from `runs`."""
    groups: dict[str, dict[str, Any]] = {}
    for group in stated.get("groups") or ():
        name = str(group.get("name") or "")
        groups[name] = {**group, "name": name, "arms": dict(group.get("arms") or {})}
    for run in runs:
        group = groups.setdefault(run.group, {"name": run.group, "arms": {}})
        group["arms"].setdefault(run.arm, {})
    for name, group in groups.items():
        for arm, fields in group["arms"].items():
            members = [run for run in runs if (run.group, run.arm) == (name, arm)]
            group["arms"][arm] = _filled(fields or {}, members, folder=folder)
    return {
        "name": folder.resolve().name,
        "rule": None,
        "metric": next((run.metric for run in runs), ACCURACY),
        **stated,
        "groups": list(groups.values()),
    }


def judged(group: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the verdicts of a group by the arm that was judged, in the order of the arms.

    The one place that knows how compare.json holds them: `verdicts` by arm, in files of earlier versions one `verdict`.
    """
    stated = group.get("verdicts")
    if stated is None:
        alone = group.get("verdict") or {}
        stated = {str(alone.get("candidate", "candidate")): alone}
    return {str(arm): verdict for arm, verdict in stated.items() if verdict}


def baseline(group: Mapping[str, Any]) -> str | None:
    """Return the arm that the others are measured against: the one stated, else "plain" or "none", else the first."""
    arms = list(group["arms"])
    if len(arms) < 2:
        return None
    named = [group.get("baseline"), *(verdict.get("baseline") for verdict in judged(group).values())]
    return next((arm for arm in (*named, "plain", "none", *arms) if arm in arms), None)


def finished(arm: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many runs of an arm have a final score, and how many it should have."""
    final = arm.get("final") or []
    return sum(known(value) for value in final), max(len(arm.get("runs") or []), len(final))


def notes(
    stated: Mapping[str, Any] | None, compare: Mapping[str, Any], runs: Sequence[Run], *, folder: Path
) -> list[str]:
    """Return what a reader must know before believing the numbers: what else differs, runs not finished, files that disagree."""
    result = [str(note) for note in compare.get("notes") or ()]
    if stated is None and not (folder / run_folders.JOURNAL).is_file():
        result.append(
            f"There is no {run_folders.COMPARISON} here yet, so this is a comparison under way: the numbers below come from "
            "the journals of the runs found so far, and there is no verdict."
        )
    found = {_name(run, folder) for run in runs}
    if missing := [name for name in run_folders.listed_runs(compare) if name not in found]:
        result.append(f"Not started yet, or journal missing: {listing(missing)}.")
    for run in runs:
        where = f"after epoch {run.epochs[-1].epoch}" if run.epochs else "before the end of its first epoch"
        if run.stop is not None:
            result.append(f"{run.name} stopped {where}: {run.stop.rstrip('.')}.")
        elif not run.finished:
            result.append(f"{run.name} has not finished: its journal ends {where}.")
    return result + _disagreements(stated or {}, runs, folder=folder)


def _disagreements(stated: Mapping[str, Any], runs: Sequence[Run], *, folder: Path) -> list[str]:
    journals = {_name(run, folder): run.end.score for run in runs if run.end}
    metric = str(stated.get("metric") or ACCURACY)
    result = []
    for group in stated.get("groups") or ():
        for arm in (group.get("arms") or {}).values():
            for name, value in zip(arm.get("runs") or (), arm.get("final") or (), strict=False):
                if name in journals and known(value) and not math.isclose(value, journals[name], abs_tol=1e-6):
                    told, found = (f"{score(v, metric)}{unit(metric)}" for v in (value, journals[name]))
                    result.append(
                        f"{run_folders.COMPARISON} gives {name} {told} {metric}, its journal {found}: the run changed after the "
                        "comparison. Run the comparison again."
                    )
    return result


def _filled(fields: Mapping[str, Any], runs: Sequence[Run], *, folder: Path) -> dict[str, Any]:
    """Return an arm of a comparison with the fields that are missing or null taken from its journals."""
    by_name = {_name(run, folder): run for run in runs}
    names = list(fields.get("runs") or by_name)
    computed = arm_record(names, [by_name.get(name) for name in names])
    return computed | {key: value for key, value in fields.items() if value is not None}


def _name(run: Run, folder: Path) -> str:
    """Return a run's name inside its comparison, the way compare.json lists it."""
    relative = run.path.relative_to(folder).as_posix()
    return run.name if relative == "." else relative
