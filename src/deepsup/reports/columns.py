"""The columns of the tables of arms, for terminal and page alike; a new one is one `@column` here.

Costs are per sample and forward. Compute is the arithmetic of the whole training, relative to the baseline's.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, NamedTuple

from deepsup.reports import depths, formats
from deepsup.reports.metrics import difference as difference_of
from deepsup.reports.metrics import score as score_of
from deepsup.reports.metrics import spread, unit
from deepsup.reports.summary import baseline, finished, judged
from deepsup.tasks import is_share
from deepsup.training.records import ACCURACY

RESULTS: Final = "results"
COSTS: Final = ("training", "inference")


class Arm(NamedTuple):
    """What a cell is made from: an arm of compare.json beside the baseline of its group."""

    fields: Mapping[str, Any]
    reference: Mapping[str, Any]
    verdict: Mapping[str, Any]
    metric: str

    def mean(self, key: str) -> float | None:
        """The mean over the runs that have a number."""
        values = [value for value in self.fields.get(key) or [] if formats.known(value)]
        return statistics.fmean(values) if values else None


@dataclass(frozen=True)
class Column:
    """One column: its heads (empty: it is not in that table), where the page has it, and the text of a cell.

    `{metric}` and `{baseline}` in a head stand for their names, `{unit}` for " %" where the metric has it. `says` tells, from
    all of its cells and the metric, whether the page needs the column. `same`: no method changes it, so that the terminal
    says it in a sentence where that is so.
    """

    text: Callable[[Arm], str]
    section: str
    page: str
    terminal: str
    says: Callable[[Sequence[str], str], bool]
    same: bool
    strong: bool
    wraps: bool


@dataclass(frozen=True)
class Row:
    """One arm of one group, its cells as texts by the name of their column."""

    group: str
    arm: str
    cells: Mapping[str, str]


class PageTable(NamedTuple):
    """A table of the page: what stands over so many columns, their heads, and by row the cells and whether they are strong."""

    names: list[str]
    spans: list[tuple[str, int]]
    heads: list[str]
    rows: list[tuple[Row, list[tuple[str, bool]]]]


COLUMNS: dict[str, Column] = {}  # by name, in the order in which they are shown
_Text = Callable[[Arm], str]


def column(
    section: str,
    page: str = "",
    terminal: str = "",
    *,
    says: Callable[[Sequence[str], str], bool] = lambda cells, metric: True,
    same: bool = False,
    strong: bool = False,
    wraps: bool = False,
) -> Callable[[_Text], _Text]:
    """Add a column of the name of the function that writes its cells; see `Column`."""

    def added(text: _Text) -> _Text:
        COLUMNS[text.__name__] = Column(text, section, page, terminal, says, same, strong, wraps)
        return text

    return added


def rows(compare: Mapping[str, Any]) -> list[Row]:
    """Return the table of a comparison (the content of compare.json), one row for each group and arm."""
    metric = metric_of(compare)
    return [
        Row(str(group["name"]), name, {key: one.text(arm) for key, one in COLUMNS.items()})
        for group in compare["groups"]
        for name, fields in group["arms"].items()
        for arm in [Arm(fields, group["arms"].get(baseline(group)) or {}, judged(group).get(name, {}), metric)]
    ]


def page_table(compare: Mapping[str, Any], *sections: str) -> PageTable:
    """Return the columns of these sections of the page that have something to say."""
    found, metric = rows(compare), metric_of(compare)
    named = {
        "metric": metric,
        "unit": unit(metric).replace(" ", "\u00a0"),
        "baseline": next((baseline(group) for group in compare["groups"]), None),
    }
    shown = {
        key: one
        for key, one in COLUMNS.items()
        if one.section in sections and one.page and one.says([row.cells[key] for row in found], metric)
    }
    spans = [(section, len(list(same))) for section, same in groupby(one.section for one in shown.values())]
    cells = [(row, [(row.cells[key], one.strong) for key, one in shown.items()]) for row in found]
    return PageTable(list(shown), spans, [one.page.format(**named) for one in shown.values()], cells)


def terminal_columns(found: Sequence[Row], metric: str, *, same_said: bool) -> dict[str, str]:
    """Return the heads of the terminal's columns that say something, by name; `same_said`: what is the same is said elsewhere."""
    shown = {}
    for key, one in COLUMNS.items():
        cells = [row.cells[key] for row in found]
        if one.terminal and not all(c in (formats.NONE, "never") for c in cells) and not (one.same and same_said):
            shown[key] = one.terminal.format(metric=metric, unit=unit(metric))
    if all(set(row.cells["epochs"]) <= set("1, ") for row in found):  # all were there after the first epoch
        shown.pop("epochs", None)
    return shown


def metric_of(compare: Mapping[str, Any]) -> str:
    """Return the name of the score that counts."""
    return str(compare.get("metric") or ACCURACY)


def span(low: Any, high: Any, *, metric: str) -> str:
    """Write an interval of differences in points."""
    low, high = (difference_of(end, metric) for end in (low, high))
    return f"{low} to {high}"


def _something(cells: Sequence[str], metric: str) -> bool:
    return any(cell not in ("", formats.NONE) for cell in cells)


def _reached(cells: Sequence[str], metric: str) -> bool:
    """90 % is a natural goal for accuracy; of other metrics only if somebody got there."""
    return is_share(metric) and (metric == ACCURACY or any(cell not in (formats.NONE, "never") for cell in cells))


@column(RESULTS, "runs")
def runs(arm: Arm) -> str:
    done, planned = finished(arm.fields)
    return str(done) if done == planned else f"{done} of {planned}"


@column(RESULTS, "{metric}{unit}", "{metric}{unit}", strong=True)
def score(arm: Arm) -> str:
    return spread(arm.fields.get("mean"), arm.fields.get("std"), arm.metric)


@column(RESULTS, "rank-1\u00a0%", "rank-1 %", says=_something)
def rank_1(arm: Arm) -> str:
    return formats.NONE if arm.metric == "rank-1" else score_of(arm.mean("rank_1"), "rank-1")


@column(RESULTS, "minus {baseline}", says=_something)
def difference(arm: Arm) -> str:
    own = arm.fields is arm.reference
    return "" if own else difference_of(arm.verdict.get("mean_difference"), arm.metric)


@column(RESULTS, "interval", says=_something)
def interval(arm: Arm) -> str:
    low, high = arm.verdict.get("ci_low"), arm.verdict.get("ci_high")
    return span(low, high, metric=arm.metric) if formats.known(low) else ""


@column(RESULTS, "ensemble{unit}")
def ensemble(arm: Arm) -> str:
    found = depths.ensemble(arm.fields)
    return score_of(found.mean, arm.metric) if found else formats.NONE


@column(RESULTS, "epochs to\u00a090\u00a0%", "epochs\nto 90 %", says=_reached, wraps=True)
def epochs(arm: Arm) -> str:
    final, reached = arm.fields.get("final") or [], arm.fields.get("epochs_to_90") or []
    if len(final) == len(reached):  # a run that has not finished has not failed to get there
        reached = [epoch for epoch, value in zip(reached, final, strict=True) if formats.known(value)]
    return formats.epochs(reached) if finished(arm.fields)[0] else formats.NONE


@column("training", "epochs")
def trained(arm: Arm) -> str:
    return formats.between([value for value in arm.fields.get("epochs") or [] if formats.known(value)])


@column("training", "time per run", "train\ntime")
def seconds(arm: Arm) -> str:
    return formats.duration(arm.mean("seconds"))


@column("training", "time per step")
def step(arm: Arm) -> str:
    return formats.milliseconds(arm.mean("step_ms"))


@column("training", "compute", "train\ncompute")
def compute(arm: Arm) -> str:
    return formats.times(_ratio(_arithmetic(arm), _arithmetic(arm._replace(fields=arm.reference))))


@column("training", "memory", "train\nmemory")
def saved(arm: Arm) -> str:
    return formats.size(arm.fields.get("saved_bytes"))


@column("training", "GPU peak", says=_something)
def peak(arm: Arm) -> str:
    return formats.size(arm.fields.get("peak_bytes"))


@column("training", "parameters", "train\nparams")
def train_params(arm: Arm) -> str:
    return formats.count(arm.fields.get("train_params"))


@column("training", "FLOPs", "train\nFLOPs")
def train_flops(arm: Arm) -> str:
    return formats.count(arm.fields.get("train_flops"))


@column("inference", "parameters", "infer\nparams", same=True)
def inference_params(arm: Arm) -> str:
    return formats.count(arm.fields.get("inference_params"))


@column("inference", "FLOPs", "infer\nFLOPs", same=True)
def inference_flops(arm: Arm) -> str:
    return formats.count(arm.fields.get("inference_flops"))


@column("inference", "time", "infer\ntime")
def inference_time(arm: Arm) -> str:
    return formats.times(_ratio(arm.fields.get("inference_ms"), arm.reference.get("inference_ms")))


def _arithmetic(arm: Arm) -> float | None:
    """That of a whole training, in forwards of one sample; all arms see the same images."""
    epochs, flops = arm.mean("epochs"), arm.fields.get("train_flops")
    return epochs * float(flops) * (arm.fields.get("passes") or 1) if epochs is not None and flops is not None else None


def _ratio(value: Any, reference: Any) -> float | None:
    return value / reference if value and reference and formats.known(value) and formats.known(reference) else None
