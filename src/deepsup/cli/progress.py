"""Live progress in the terminal: what `deepsup train` and `deepsup compare` show while they work.

    with Display(console) as display:
        compare(config, on_event=display.see)

Only the command line uses it; nothing else here prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deepsup.tasks import shown

BAR = 16  # characters
FIRST = "rank-1"  # stands beside the score of a search


class Display:
    """A table with one line a run, redrawn as events arrive; `see` takes journal records and the events of `compare`.

    Where the output is not a terminal, it prints one line an epoch instead. A narrow terminal loses the branches first,
    then the length of the bar; runs, epochs, losses and scores are always there in full. A low one shows the runs
    that are at work and as many others as have room; all of them at the end.
    """

    def __init__(self, console: Console, *, name: str = "run") -> None:
        self.console, self.name = console, name
        self.rule = ""
        self.before = 0  # runs that had finished when the comparison was started
        self.runs: dict[str, dict[str, Any]] = {}
        self.found: set[str] = set()
        self.ended = False
        self._live = Live(self, console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True
        self._live.stop()

    def see(self, event: Mapping[str, Any]) -> None:
        """Take in a journal record or an event of a comparison."""
        if self.console.is_terminal:
            self._live.start()  # with the first event: where nothing is left to do, nothing is shown
        if event["kind"] == "rule":
            self.rule = event["rule"]
            for note in event.get("notes", ()):
                self.console.print(f"note: {note}", style="yellow", markup=False, highlight=False)
            if event.get("detectable"):
                self.console.print(event["detectable"], style="dim", markup=False, highlight=False, soft_wrap=True)
            self.before = len(event["finished"])
            self.runs = {run: {"state": "done" if run in event["finished"] else "waits"} for run in event["runs"]}
        elif event["kind"] == "seed":
            self.runs |= {run: {"state": "waits"} for run in event["runs"]}
        else:
            name = event.get("run", self.name)
            line = self.runs.setdefault(name, {"state": "waits"})
            _update(line, event)
            self._print(name, line, event)
        if self.console.is_terminal:
            self._live.refresh()

    def _print(self, name: str, line: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """What scrolls by: above the table what the doctor found and which run is resumed, without a table all news."""
        if event["kind"] == "start":
            self._print_data((event.get("data") or {}).get("lines", ()))
        elif event["kind"] == "doctor":
            self._print_findings(name, event["findings"])
        elif event["kind"] == "resume":
            self.console.print(f"{name}: resumes at epoch {event['epoch']}", highlight=False)
        elif event["kind"] in ("epoch", "failed", "stop", "end") and not self.console.is_terminal:
            scored = event["kind"] != "epoch" or event["validation"]  # else the score is an earlier one
            cells = _cells(line if scored else {**line, "score": {}})
            news = [
                cells.state,
                cells.epoch and f"epoch {cells.epoch}",
                cells.score and f"{_short(line)} {cells.score}",
                FIRST in cells.score and cells.branches,
            ]
            told = ", ".join(part for part in news if part)
            self.console.print(f"{name}: {told}", highlight=False, soft_wrap=True)

    def _print_data(self, lines: Iterable[str]) -> None:
        """What the data set consists of, once for all runs of a comparison that share it."""
        for line in (line for line in lines if line not in self.found):
            self.found.add(line)
            style = "yellow" if line.startswith("note: ") else None
            self.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def _print_findings(self, name: str, findings: list[Mapping[str, str]]) -> None:
        """Each once, however many runs of a comparison have it."""
        for f in findings:
            text = f"{f['severity']}: {f['where']}: {f['what'].rstrip('.')}. Fix: {f['fix'].rstrip('.')}."
            if text not in self.found:
                self.found.add(text)
                self.console.print(
                    f"{name}: {text}", style="red" if f["severity"] == "error" else "yellow", markup=False
                )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rule = Text(f"{self.rule}\n", style="dim")
        if self.rule:
            yield rule
        room = options.max_height - len(rule.wrap(console, options.max_width)) - 5  # heading, counts, and the prompt
        runs = self.runs if self.ended else _in_view(self.runs, max(room, 1))
        if runs:
            yield _table(runs, width=options.max_width)
        hidden = [line["state"] for run, line in self.runs.items() if run not in runs]
        if hidden:
            counts = [f"{hidden.count(state)} {word}" for state, word in _COUNTED.items() if state in hidden]
            yield Text(f"and {', '.join(counts)}", style="dim")
        if len(self.runs) > 1:
            done = sum(line["state"] == "done" for line in self.runs.values())
            before = f", {self.before} of them before" if self.before else ""
            yield Text(f"{done} of {len(self.runs)} runs done{before}", style="dim")


_COUNTED = {"done": "done", "waits": "waiting", "trains": "training", "failed": "failed", "stopped": "stopped"}
_LAST = ("trains", "failed", "stopped", "waits", "done")


def _in_view(runs: Mapping[str, Mapping[str, Any]], room: int) -> dict[str, Mapping[str, Any]]:
    """As many runs as there is room for, those at work first, then those to come; in their order."""
    if len(runs) <= room:
        return dict(runs)
    chosen = sorted(runs, key=lambda run: _LAST.index(runs[run]["state"]))[:room]
    return {run: line for run, line in runs.items() if run in chosen}


_STYLES = {"done": "green", "failed": "red", "stopped": "red", "waits": "dim"}
_STATES = {"done": "done", "end": "done", "failed": "failed", "stop": "stopped"}
_GAP = 2


class _Cells(NamedTuple):
    """One line of the table as text."""

    run: str
    state: str
    epoch: str
    loss: str
    score: str
    branches: str


def _table(runs: Mapping[str, Mapping[str, Any]], *, width: int) -> Table:
    """The runs in a table of at most `width` characters; columns without anything in them are left out."""
    rows = [_cells(line, run=run) for run, line in runs.items()]
    names = {_short(line) for line in runs.values() if "metric" in line}
    headings = {"state": "", "score": names.pop() if len(names) == 1 else "score"}
    widths = {"run": 0, "state": 0}
    for i, title in enumerate(_Cells._fields):
        if title in widths or any(row[i] for row in rows):
            heading = headings.get(title, title)
            widths[title] = max(cell_len(text) for text in (heading, *(row[i] for row in rows)))
    states = widths.pop("state")
    if _room(widths, width) < BAR:
        widths.pop("branches", None)
    state = max(states, min(BAR, _room(widths, width)))
    table = Table(box=None, padding=(0, _GAP, 0, 0))
    for title in ("run", "state", *list(widths)[1:]):
        left = title in ("run", "state", "branches")
        # A run's name too long for any terminal is broken into lines, never cut.
        table.add_column(
            headings.get(title, title),
            justify="left" if left else "right",
            no_wrap=title != "run",
            overflow="fold",
            min_width=state if title == "state" else None if title == "run" else widths[title],
        )
    for row, line in zip(rows, runs.values(), strict=True):
        bar: RenderableType = Text(row.state, style=_STYLES.get(row.state, ""))
        if row.state == "trains":
            bar = ProgressBar(total=1.0, completed=line.get("progress", 0.0), width=state)
        table.add_row(row.run, bar, *(text for title, text in row._asdict().items() if title in list(widths)[1:]))
    return table


def _room(widths: Mapping[str, int], width: int) -> int:
    """What columns of these widths leave of `width` for one more."""
    return width - sum(widths.values()) - _GAP * (len(widths) + 1)


def _update(line: dict[str, Any], event: Mapping[str, Any]) -> None:
    line["state"] = _STATES.get(event["kind"], "trains")
    for key in ("progress", "epoch", "epochs", "total", "metric"):
        if key in event:
            line[key] = event[key]
    if event["kind"] == "start":
        line.setdefault("epochs", event["config"].get("epochs"))
    if event["kind"] == "epoch" and event["validation"]:
        line["score"] = event["validation"]["score"]
        line["scores"] = event["validation"].get("scores") or {}
        line["total"] = event["train"]["total"]


def _short(line: Mapping[str, Any]) -> str:
    """What a run's score is called where there is little room."""
    name = str(line.get("metric", "score"))
    return f"m{name.removeprefix('mean ')}" if name.startswith("mean ") else name


def _cells(line: Mapping[str, Any], *, run: str = "") -> _Cells:
    scores = dict(line.get("score") or {})
    epoch = str(line.get("epoch", ""))
    if epoch and line.get("epochs"):
        epoch += f"/{line['epochs']}"
    total, metric = line.get("total"), str(line.get("metric", "score"))

    def told(name: str, digits: int) -> str:
        first = (line.get("scores") or {}).get(name, {}).get(FIRST) if metric != FIRST else None
        text = shown(metric, scores[name], digits=digits)
        return text if first is None else f"{text}, {FIRST} {shown(FIRST, first, digits=digits)}"

    return _Cells(
        run,
        line["state"],
        epoch,
        "" if total is None else f"{total:.3f}",
        told("main", 1) if "main" in scores else "",
        "  ".join(f"{name} {told(name, 0)}" for name in scores if name != "main"),
    )
