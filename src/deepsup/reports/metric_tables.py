"""All scores of tasks that have several as tables: a column an arm (or an output of a single run), a row a score."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deepsup.errors import DeepsupError
from deepsup.reports import depths, galleries, metrics
from deepsup.reports.formats import NONE, known, percent
from deepsup.reports.summary import Evidence
from deepsup.tasks import is_share
from deepsup.training.records import Run

_CONFUSION: Final = "confusion"
_CELLS: Final = metrics.COUNTS
"""A confusion matrix of two classes, row by row: the truth is negative, then positive."""


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The scores after the last epoch, every cell already text; `classes` are the rows that belong to one class each."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    classes: tuple[tuple[str, ...], ...]


def score_tables(found: Evidence) -> list[ScoreTable]:
    """Return a table a group, of main outputs, mean ± standard deviation over seeds; of a single run all outputs.

    Empty where journals hold no scores of label maps.
    """
    if found.single:
        columns = {output: [scores] for output, scores in _of_outputs(found.runs[0]).items()}
        return [_table("", columns, found=found)] if columns else []
    tables = []
    for group in found.groups:
        columns = {
            a: [s for r in runs if (s := _of_outputs(r).get("main"))] for a, runs in found.ordered(group).items()
        }
        if any(columns.values()):
            tables.append(_table(group, columns, found=found))
    return tables


def _of_outputs(run: Run) -> dict[str, Mapping[str, float]]:
    """Return the scores of each output after the last epoch: branches by depth, main, all together."""
    scores = run.epochs[-1].scores if run.epochs else {}
    return {name: _named(scores[name]) for name in depths.in_order(scores, run.plan)}


def _named(scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores with the cells of a confusion matrix of two classes under the names they have; a larger one goes."""
    cells = [value for name, value in scores.items() if name.startswith(f"{_CONFUSION}: ")]
    rest = {name: value for name, value in scores.items() if not name.startswith(f"{_CONFUSION}: ")}
    return rest | (dict(zip(_CELLS, cells, strict=True)) if len(cells) == len(_CELLS) else {})


def _table(title: str, columns: Mapping[str, Sequence[Mapping[str, float]]], *, found: Evidence) -> ScoreTable:
    names = list(dict.fromkeys(name for runs in columns.values() for scores in runs for name in scores))
    names.sort(
        key=lambda name: name != found.metric
    )  # the score that counts comes first, the others stay in their order
    rows = [(name, *(_cell(name, runs) for runs in columns.values())) for name in names]
    classes = _classes(found)
    return ScoreTable(
        title,
        heads=tuple(columns),
        rows=tuple(row for row in rows if ": " not in row[0]),
        classes=tuple((_class(name, classes), *cells) for name, *cells in rows if ": " in name),
    )


def _classes(found: Evidence) -> tuple[str, ...]:
    """Return what the classes are called, as the maps of the first run say that has any."""
    for run in found.runs:
        try:
            return galleries.read(run).classes
        except DeepsupError:
            continue
    return ()


def _class(name: str, classes: Sequence[str]) -> str:
    """Return `IoU: 3` with the name of class 3 where it is known."""
    score, _, number = name.partition(": ")
    return f"{score}: {classes[int(number)]}" if number.isdecimal() and int(number) < len(classes) else name


def _cell(name: str, runs: Sequence[Mapping[str, float]]) -> str:
    values = [scores[name] for scores in runs if known(scores.get(name))]
    if not values:
        return NONE
    text = metrics.value(name, statistics.fmean(values))
    several = len(values) > 1 and "threshold" not in name.lower()
    if several and not is_share(name):
        return f"{text} ± {metrics.score(statistics.stdev(values), name)}"
    return f"{text} ± {percent(statistics.stdev(values), digits=2)}" if several and max(values) <= 1 else text
