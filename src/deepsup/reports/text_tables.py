"""A comparison or a run as a table for the terminal, and its verdict as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from deepsup.reports import curves, depths, formats, metrics, shrinking
from deepsup.reports.columns import COLUMNS, metric_of, rows, terminal_columns
from deepsup.reports.columns import span as span_of
from deepsup.reports.summary import baseline, finished, judged
from deepsup.specs import counted, require
from deepsup.training.records import ACCURACY, Run

if TYPE_CHECKING:
    from rich.table import Table


_PLACES: Final = 6
"""Depths that have a column of their own at most."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one arm: a word (helps, no evidence, hurts, no verdict yet) and the numbers behind it."""

    group: str
    arm: str
    word: str
    text: str
    aside: str = ""
    """What else differs between the two arms: `losses differ`."""


def comparison_table(compare: Mapping[str, Any]) -> Table:
    """Return the table of a comparison, for `rich.print`. Three seeds fit into 80 columns.

    >>> print(comparison_table(json.loads(Path("runs/demo/compare.json").read_text())))     # doctest: +SKIP
    """
    found, metric = rows(compare), metric_of(compare)
    shown = terminal_columns(found, metric, same_said=inference_line(compare) is not None)
    table = _table(padding=0)
    table.add_column("arm", overflow="fold", vertical="top", min_width=8)
    for name, head in shown.items():
        look: dict[str, Any] = {"justify": "right", "overflow": "fold", "vertical": "top"}
        table.add_column(head, no_wrap=not COLUMNS[name].wraps, **look)
    for i, row in enumerate(found):
        if not i or row.group != found[i - 1].group:
            _headed(table, row.group)
        runs = row.cells["runs"]
        arm = f"{row.arm}\n{runs.replace(' of ', '/')} runs" if "of" in runs else row.arm
        table.add_row(*_plain([arm, *(row.cells[name] for name in shown)]))
    return table


def verdict_table(compare: Mapping[str, Any]) -> Table:
    """Return the verdicts as a table, for `rich.print`: what `verdict_lines` says, where there are many."""
    table = _table(padding=(0, 1, 0, 0))
    metric, names = metric_of(compare), {baseline(group) for group in compare["groups"]}
    table.add_column(f"minus {names.pop()}" if len(names) == 1 else "minus the baseline", overflow="fold")
    levels = {v.get("confidence", 0.95) for group in compare["groups"] for v in judged(group).values()}
    span = f"{100 * levels.pop():.4g} % interval" if len(levels) == 1 else "interval"
    for head in ("points" if metrics.unit(metric) else "difference", span, "seeds"):
        table.add_column(head, justify="right")
    table.add_column("verdict", no_wrap=True)
    for group in compare["groups"]:
        if len(compare["groups"]) > 1:
            _headed(table, str(group["name"]))
        for arm, v in judged(group).items():
            low, high = v.get("ci_low"), v.get("ci_high")
            span = span_of(low, high, metric=metric) if formats.known(low) else ""
            numbers = [metrics.difference(v.get("mean_difference"), metric), span, str(v.get("n") or 0)]
            word = f"{v.get('verdict')}{f' ({note})' if (note := aside(v)) else ''}"
            table.add_row(*_plain([arm, *numbers, word]))
    return table


def inference_line(compare: Mapping[str, Any]) -> str | None:
    """Return what inference costs in the arms of each group; None where arms of one differ, which the table then shows."""
    costs: dict[str, set[tuple[str, str]]] = {}
    for row in rows(compare):
        costs.setdefault(row.group, set()).add((row.cells["inference_params"], row.cells["inference_flops"]))
    known = {group: found - {(formats.NONE, formats.NONE)} for group, found in costs.items()}
    if any(len(found) > 1 for found in known.values()) or not any(known.values()):
        return None
    said = {group: "{} parameters, {} FLOPs a sample".format(*found.pop()) for group, found in known.items() if found}
    if len(set(said.values())) == 1:
        return f"inference, every arm: {next(iter(said.values()))}"
    return "inference, every arm: " + "; ".join(f"{group} {cost}" for group, cost in said.items())


def depth_table(compare: Mapping[str, Any]) -> Table | None:
    """Return how good each output is by its depth, a row an arm, for `rich.print`; None where no arm has a branch.

    Where the branches of all arms lie at few depths these are the columns, else a cell lists them.
    """
    metric = metric_of(compare)
    arms = [(str(g["name"]), str(name), arm) for g in compare["groups"] for name, arm in g["arms"].items()]
    places = sorted({round(100 * o.depth) for *_, arm in arms for o in depths.branches(arm) if o.depth is not None})
    if not places:
        return None
    few, together = len(places) <= _PLACES, any(depths.ensemble(arm) for *_, arm in arms)
    table = _table(padding=(0, 1, 0, 0))
    table.add_column(f"{metric}{metrics.unit(metric)}\nat depth", overflow="fold", vertical="bottom")
    for place in [f"{p} %" for p in places] if few else ["of branches"]:
        table.add_column(place, justify="right" if few else "left", overflow="fold")
    for name in ("main", *([depths.ENSEMBLE] if together else [])):
        table.add_column(name, justify="right")
    named = len(compare["groups"]) > 1
    for group, name, arm in arms:
        cells = _at_places(arm, places, metric=metric) if few else [_listed(arm, metric=metric)]
        last = [next((o for o in depths.of(arm) if o.name == "main"), None)]
        if together:
            last.append(depths.ensemble(arm))
        cells += [metrics.score(output.mean, metric) if output else "" for output in last]
        table.add_row(*_plain([f"{group} / {name}" if named and group else name, *cells]))
    return table


def _at_places(arm: Mapping[str, Any], places: Sequence[int], *, metric: str) -> list[str]:
    """The branches under the columns of their depths; of several in one place all are named."""
    found: dict[int, list[str]] = {place: [] for place in places}
    for output in depths.branches(arm):
        found[round(100 * (output.depth or 0))].append(metrics.score(output.mean, metric))
    return [", ".join(cells) for cells in found.values()]


def _listed(arm: Mapping[str, Any], *, metric: str) -> str:
    scores = [(100 * (o.depth or 0), metrics.score(o.mean, metric)) for o in depths.branches(arm)]
    return ", ".join(f"{depth:.0f} %: {score}" for depth, score in scores)


def verdicts(compare: Mapping[str, Any]) -> list[Verdict]:
    """Return what a comparison found, group by group and arm by arm, in words."""
    metric = metric_of(compare)
    result = []
    for group in compare["groups"]:
        name, found = str(group["name"]), judged(group)
        result += [
            Verdict(name, arm, *_judged(verdict, metric=metric), aside(verdict)) for arm, verdict in found.items()
        ]
        if not found:
            result.append(Verdict(name, "", "no verdict yet", _unjudged(group["arms"])))
    return result


def verdict_lines(compare: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each group and arm: the verdict, the mean difference with its interval, how many pairs.

    >>> verdict_lines({"groups": [{"name": "sgd", "arms": {}, "verdicts": {"aux": {"verdict": "helps", "n": 3,
    ...     "mean_difference": 0.021, "ci_low": 0.012, "ci_high": 0.03, "confidence": 0.95, "baseline": "plain",
    ...     "candidate": "aux"}}}]})
    ['sgd: helps. aux minus plain: +2.1 points of accuracy (95 % interval +1.2 to +3.0, n = 3 paired seeds)']
    """
    found = verdicts(compare)
    words = [f"{v.word} ({v.aside})" if v.aside else v.word for v in found]
    return [": ".join(filter(None, (v.group, f"{word}. {v.text}"))) for v, word in zip(found, words, strict=True)]


def look_table(compare: Mapping[str, Any]) -> Table | None:
    """Return how the intervals shrank seed by seed, for `rich.print`; None where no seeds were added."""
    found = shrinking.looks(compare)
    if found is None:
        return None
    table: Table = _rich("table").Table(box=_rich("box").SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in found.heads:
        table.add_column(head, justify="right", overflow="fold")
    for row in found.rows:
        table.add_row(*_plain(row))
    return table


def remarks(compare: Mapping[str, Any]) -> list[str]:
    """Return what a table of verdicts has no room for, each once: which runs diverged or are missing."""
    found = [str(one) for group in compare["groups"] for v in judged(group).values() for one in v.get("remarks") or ()]
    return [f"{one[:1].upper()}{one[1:]}." for one in dict.fromkeys(found)]


def aside(verdict: Mapping[str, Any]) -> str:
    """Return what belongs beside the word of a verdict: that the arms' main losses differ, or nothing."""
    return "losses differ" if verdict.get("losses_differ") else ""


def run_table(run: Run) -> Table:
    """Return a table of one run: how it ended, how good each head is, what it cost."""
    table = _table(show_header=False, title=_plain([run.name])[0], title_justify="left")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for label, value in run_facts(run):
        table.add_row(*_plain([label, value]))
    return table


def run_facts(run: Run) -> list[tuple[str, str]]:
    """Return what there is to say about one run as pairs of label and text."""
    told, unit = partial(metrics.score, metric=run.metric), metrics.unit(run.metric)
    facts = [("state", state(run))]
    if run.end:
        facts.append((run.metric, f"{told(run.end.score)}{unit}, best {told(run.end.best_score)}{unit}"))
    if run.epochs:
        scores = dict(run.epochs[-1].score)
        together = scores.pop(depths.ENSEMBLE, None)
        heads = ", ".join(f"{head} {told(value)}" for head, value in scores.items() if head != "main")
        facts += [(f"{run.metric} of branches{unit and ','}{unit}", heads)] if heads else []
        facts += [(f"ensemble{unit and ','}{unit}", told(together))] if together is not None else []
        reached = run.epochs_to(0.9)
        if unit and (reached or run.metric == ACCURACY):
            facts.append(("epochs to 90 %", formats.epochs([reached])))
    pulls = {branch: pull for branch, (pull, *_) in curves.pulls([run]).items() if pull}
    if pulls:
        steps = curves.looked_for([run])
        notes = {branch: f" (of {pull.met} measured)" if pull.met < steps else "" for branch, pull in pulls.items()}
        shares = ", ".join(f"{branch} {100 * pull.share:.0f}{notes[branch]}" for branch, pull in pulls.items())
        facts.append(("steps in conflict, %", shares))
    facts.append(("training time", _time(run)))
    for key, label in (("params", "parameters"), ("flops", "FLOPs per sample")):
        trunk, heads_only = run.cost.get(f"trunk_{key}"), run.cost.get(f"head_{key}") or 0
        if trunk is not None:
            extra = f" + {formats.count(heads_only)} in branches while training" if heads_only else ""
            facts.append((label, f"{formats.count(trunk)}{extra}"))
    if formats.known(run.saved_bytes):
        facts.append(("memory of a step", f"{formats.size(run.saved_bytes)} kept for the backward pass"))
    return facts


def state(run: Run) -> str:
    """Return in words how a run ended, or how far it got."""
    reached = run.epochs[-1].epoch if run.epochs else 0
    if run.end:
        text = f"finished, {counted(run.end.epochs, 'epoch')}"
    elif run.stop is not None:
        text = f"stopped after epoch {reached}: {run.stop.rstrip('.')}"
    else:
        text = f"not finished, {reached}{f' of {run.planned}' if run.planned else ''} epochs"
    return text + (f", resumed {len(run.resumed)}x" if run.resumed else "")


def _judged(verdict: Mapping[str, Any], *, metric: str) -> tuple[str, str]:
    word, mean, low, high = (verdict.get(key) for key in ("verdict", "mean_difference", "ci_low", "ci_high"))
    n, level, reason = verdict.get("n") or 0, verdict.get("confidence", 0.95), str(verdict.get("reason") or "")
    more = list(verdict.get("remarks") or ())
    if not formats.known(mean):
        return str(word), "; ".join([reason or "no pair of runs has finished", *more])
    pairs = f"n = {n} paired seed{'s' if n != 1 else ''}"
    pairs += f", {verdict['images']:,} images" if verdict.get("images") else ""
    if formats.known(low) and formats.known(high):
        certainty = f"{100 * level:.4g} % interval {span_of(low, high, metric=metric)}, {pairs}"
    else:
        certainty = f"{pairs}: {reason}" if reason else pairs
    arms = f"{verdict.get('candidate', 'candidate')} minus {verdict.get('baseline', 'baseline')}"
    told = f"{arms}: {metrics.difference(mean, metric)} {metrics.measured_in(metric)} ({certainty})"
    return str(word), "; ".join([told, *more])


def _unjudged(arms: Mapping[str, Any]) -> str:
    counts = {name: finished(arm) for name, arm in arms.items()}
    return "runs finished: " + ", ".join(f"{name} {a} of {b}" for name, (a, b) in counts.items())


def _time(run: Run) -> str:
    text = formats.duration(run.seconds)
    return f"{text}, {run.end.step_ms:.1f} ms per step" if run.end and formats.known(run.end.step_ms) else text


def _table(**look: Any) -> Table:
    table: Table = _rich("table").Table(box=_rich("box").SIMPLE_HEAD, pad_edge=False, **look)
    return table


def _headed(table: Table, group: str) -> None:
    """Begin the rows of a group."""
    table.add_section()
    table.add_row(_rich("text").Text(group, style="bold"))


def _plain(cells: Sequence[str]) -> list[Any]:
    """Wrap text for rich: a layer name with brackets in it is a name, not markup."""
    return [_rich("text").Text(cell) for cell in cells]


def _rich(module: str) -> Any:
    return require(f"rich.{module}", purpose="a table in the terminal", install="deepsup[cli]")
