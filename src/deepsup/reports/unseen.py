"""What no run of a report looked at, by what its journals hold: a page of good news says what nobody asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from deepsup.reports import curves
from deepsup.reports.sections import owners
from deepsup.reports.summary import Evidence
from deepsup.training import run_folders
from deepsup.training.records import Run


class Unseen(NamedTuple):
    """One thing that was not looked at, why that is known, and in which runs; None: in all."""

    what: str
    why: str
    owners: str | None


def _branched(run: Run) -> bool:
    return bool((run.plan or {}).get("branches"))


_OF_RUNS: Final[tuple[tuple[str, str, Callable[[Run], bool]], ...]] = (
    ("Traps before training", "no search for them is recorded", lambda run: run.findings is None),
    (
        "Batches after the first, and evaluation",
        "the search for traps reads one batch, before the first step",
        lambda run: run.findings is not None,
    ),
    (
        "Whether branches pull against the rest",
        "no gradients of branches were compared",
        lambda run: _branched(run) and not curves.measured([run]),
    ),
    ("Gradients layer by layer", "none were recorded", lambda run: not run.gradients),
    (
        "Whether the network without its branches is the plain one",
        "no strip certificate lies in the folder",
        lambda run: _branched(run) and not (run.path / run_folders.CERTIFICATE).is_file(),
    ),
)


def unseen(found: Evidence) -> list[Unseen]:
    """All of it, in the order of the page."""
    lines = [
        Unseen(what, why, _named([run for run in found.runs if lacks(run)], found)) for what, why, lacks in _OF_RUNS
    ]
    lines = [line for line, (_, _, lacks) in zip(lines, _OF_RUNS, strict=True) if any(map(lacks, found.runs))]
    alone = [runs[0] for arms in found.groups.values() for runs in arms.values() if len(runs) == 1]
    if alone:
        lines.append(Unseen("Another seed", "there is one run of each setting", _named(alone, found)))
    if any(run.epochs for run in found.runs):
        lines.append(Unseen("Other images than those of validation", "every score is of those", None))
    return lines


def _named(runs: Sequence[Run], found: Evidence) -> str | None:
    """In which runs, where not in all of them."""
    return None if len(runs) == len(found.runs) else owners(runs, found.runs)
