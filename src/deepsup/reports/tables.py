"""A comparison or a run as a table for the terminal, and its verdict as sentences."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepsup.reports import curves, formats
from deepsup.reports.packages import need
from deepsup.reports.read import Run
from deepsup.reports.summary import baseline, finished

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One arm of one group, every cell already text."""

    group: str
    arm: str
    runs: str
    accuracy: str
    epochs: str
    seconds: str
    train_params: str
    train_flops: str
    inference_params: str
    inference_flops: str
    inference_time: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found in one group: a word (helps, no evidence, hurts, no verdict yet) and the numbers behind it."""

    group: str
    word: str
    text: str


def rows(compare: Mapping[str, Any]) -> list[Row]:
    """Return the table of a comparison (the content of compare.json), one row for each group and arm.

    Costs are per sample and per forward; time of inference is relative to the baseline arm of the same group.
    """
    return [
        _row(group, name, arm, reference=group["arms"].get(baseline(group)) or {})
        for group in compare["groups"]
        for name, arm in group["arms"].items()
    ]


def comparison_table(compare: Mapping[str, Any]) -> Table:
    """Return the table of a comparison, for `rich.print`. Three seeds fit into 80 columns.

    >>> print(comparison_table(json.loads(Path("runs/demo/compare.json").read_text())))     # doctest: +SKIP
    """
    heads = ["arm", "accuracy %", "epochs\nto 90 %", "train\ntime", "train\nparams", "train\nFLOPs"]
    heads += ["infer\nparams", "infer\nFLOPs", "infer\ntime"]
    table: Table = _rich("table").Table(box=_rich("box").SIMPLE_HEAD, pad_edge=False, padding=0)
    for head in heads:
        left, wraps = head == "arm", head.startswith(("arm", "epochs"))
        table.add_column(head, justify="left" if left else "right", overflow="fold", vertical="top", no_wrap=not wraps)
    group = ""
    for row in rows(compare):
        if row.group != group:
            if group:
                table.add_section()
            table.add_row(_rich("text").Text(row.group, style="bold"))
            group = row.group
        arm = f"{row.arm}\n{row.runs.replace(' of ', '/')} runs" if "of" in row.runs else row.arm
        cells = [arm, row.accuracy, row.epochs, row.seconds, row.train_params, row.train_flops]
        table.add_row(*_plain([*cells, row.inference_params, row.inference_flops, row.inference_time]))
    return table


def verdicts(compare: Mapping[str, Any]) -> list[Verdict]:
    """Return what a comparison found, group by group, in words."""
    metric = str(compare.get("metric") or "accuracy")
    return [
        Verdict(str(group["name"]), *_judged(group["verdict"], metric=metric))
        if group.get("verdict")
        else Verdict(str(group["name"]), "no verdict yet", _unjudged(group["arms"]))
        for group in compare["groups"]
    ]


def verdict_lines(compare: Mapping[str, Any]) -> list[str]:
    """Return one sentence a group: the verdict, the mean difference with its interval, and the number of pairs.

    >>> verdict_lines({"groups": [{"name": "sgd", "arms": {}, "verdict": {"verdict": "helps", "mean_difference": 0.021,
    ...     "ci_low": 0.012, "ci_high": 0.03, "n": 3, "confidence": 0.95, "baseline": "plain", "candidate": "aux"}}]})
    ['sgd: helps. aux minus plain: +2.1 points of accuracy (95 % interval +1.2 to +3.0, n = 3 paired seeds)']
    """
    return [": ".join(filter(None, (v.group, f"{v.word}. {v.text}"))) for v in verdicts(compare)]


def run_table(run: Run) -> Table:
    """Return a table of one run: how it ended, how good each head is, what it cost."""
    table: Table = _rich("table").Table(
        box=_rich("box").SIMPLE_HEAD,
        pad_edge=False,
        show_header=False,
        title=_plain([run.name])[0],
        title_justify="left",
    )
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for label, value in run_facts(run):
        table.add_row(*_plain([label, value]))
    return table


def run_facts(run: Run) -> list[tuple[str, str]]:
    """Return what there is to say about one run as pairs of label and text."""
    facts = [("state", state(run))]
    if run.end:
        facts.append(
            ("accuracy", f"{formats.percent(run.end.accuracy)} %, best {formats.percent(run.end.best_accuracy)} %")
        )
    if run.epochs:
        heads = [
            f"{head} {formats.percent(value)}" for head, value in run.epochs[-1].accuracy.items() if head != "main"
        ]
        facts += [("accuracy of branches, %", ", ".join(heads))] if heads else []
        facts.append(("epochs to 90 %", formats.epochs([run.epochs_to(0.9)])))
    if pulls := curves.pulls([run]):
        met = {branch: curves.met([run], branch) for branch in pulls}
        notes = {branch: f" (of {some} measured)" if some < every else "" for branch, (some, every) in met.items()}
        shares = ", ".join(f"{branch} {100 * pull.share:.0f}{notes[branch]}" for branch, pull in pulls.items())
        facts.append(("steps in conflict, %", shares))
    facts.append(("training time", _time(run)))
    for key, label in (("params", "parameters"), ("flops", "FLOPs per sample")):
        trunk, heads_only = run.cost.get(f"trunk_{key}"), run.cost.get(f"head_{key}") or 0
        if trunk is not None:
            extra = f" + {formats.count(heads_only)} in branches while training" if heads_only else ""
            facts.append((label, f"{formats.count(trunk)}{extra}"))
    return facts


def state(run: Run) -> str:
    """Return in words how a run ended, or how far it got."""
    reached = run.epochs[-1].epoch if run.epochs else 0
    if run.end:
        text = f"finished, {run.end.epochs} epochs"
    elif run.stop is not None:
        text = f"stopped after epoch {reached}: {run.stop.rstrip('.')}"
    else:
        planned = run.config.get("epochs")
        text = f"not finished, {reached} of {planned} epochs" if planned else f"not finished, {reached} epochs"
    return text + (f", resumed {len(run.resumed)}x" if run.resumed else "")


def _row(group: Mapping[str, Any], name: str, arm: Mapping[str, Any], *, reference: Mapping[str, Any]) -> Row:
    done, planned = finished(arm)
    final, reached = arm.get("final") or [], arm.get("epochs_to_90") or []
    if len(final) == len(reached):  # a run that has not finished has not failed to get there
        reached = [epoch for epoch, value in zip(reached, final, strict=True) if formats.known(value)]
    seconds = [value for value in arm.get("seconds") or [] if formats.known(value)]
    own, other = arm.get("inference_ms"), reference.get("inference_ms")
    relative = own / other if own and other and formats.known(own) and formats.known(other) else None
    return Row(
        group=str(group["name"]),
        arm=name,
        runs=str(done) if done == planned else f"{done} of {planned}",
        accuracy=formats.spread(arm.get("mean"), arm.get("std")),
        epochs=formats.epochs(reached) if done else formats.NONE,
        seconds=formats.duration(statistics.fmean(seconds)) if seconds else formats.NONE,
        train_params=formats.count(arm.get("train_params")),
        train_flops=formats.count(arm.get("train_flops")),
        inference_params=formats.count(arm.get("inference_params")),
        inference_flops=formats.count(arm.get("inference_flops")),
        inference_time=formats.times(relative),
    )


def _judged(verdict: Mapping[str, Any], *, metric: str) -> tuple[str, str]:
    word, mean, low, high = (verdict.get(key) for key in ("verdict", "mean_difference", "ci_low", "ci_high"))
    n, level, reason = verdict.get("n") or 0, verdict.get("confidence", 0.95), str(verdict.get("reason") or "")
    if not formats.known(mean):
        return str(word), reason or "no pair of runs has finished"
    pairs = f"n = {n} paired seed{'s' if n != 1 else ''}"
    if formats.known(low) and formats.known(high):
        certainty = f"{100 * level:g} % interval {formats.points(low)} to {formats.points(high)}, {pairs}"
    else:
        certainty = f"{pairs}: {reason}" if reason else pairs
    arms = f"{verdict.get('candidate', 'candidate')} minus {verdict.get('baseline', 'baseline')}"
    return str(word), f"{arms}: {formats.points(mean)} points of {metric} ({certainty})"


def _unjudged(arms: Mapping[str, Any]) -> str:
    counts = {name: finished(arm) for name, arm in arms.items()}
    return "runs finished: " + ", ".join(f"{name} {a} of {b}" for name, (a, b) in counts.items())


def _time(run: Run) -> str:
    text = formats.duration(run.seconds)
    return f"{text}, {run.end.step_ms:.1f} ms per step" if run.end and formats.known(run.end.step_ms) else text


def _plain(cells: Sequence[str]) -> list[Any]:
    """Wrap text for rich: a layer name with brackets in it is a name, not markup."""
    return [_rich("text").Text(cell) for cell in cells]


def _rich(module: str) -> Any:
    return need(f"rich.{module}", purpose="a table in the terminal", extra="cli")
