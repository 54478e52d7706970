"""Live progress in the terminal: what `deepsup train` and `deepsup compare` show while they work.

    with Display(console) as display:
        compare(config, on_event=display.see)

Only the command line uses it; nothing else here prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


class Display:
    """A table with one line a run, redrawn as events arrive; `see` takes journal records and the events of `compare`.

    Where the output is not a terminal, it prints one line an epoch instead.
    """

    def __init__(self, console: Console, *, name: str = "run") -> None:
        self.console, self.name = console, name
        self.rule = ""
        self.runs: dict[str, dict[str, Any]] = {}
        self._live = Live(self, console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def see(self, event: Mapping[str, Any]) -> None:
        """Take in a journal record or an event of a comparison."""
        if event["kind"] == "rule":
            self.rule = event["rule"]
            self.runs = {run: {"state": "done" if run in event["finished"] else "waits"} for run in event["runs"]}
        else:
            name = event.get("run", self.name)
            line = self.runs.setdefault(name, {"state": "waits"})
            _update(line, event)
            if not self.console.is_terminal:
                self._print(name, line, event["kind"])
        if self.console.is_terminal:
            self._live.refresh()

    def _print(self, name: str, line: Mapping[str, Any], kind: str) -> None:
        if kind in ("epoch", "failed", "stop", "end"):
            cells = _cells(line)
            self.console.print(f"{name}: {line['state']}, epoch {cells[1]}, accuracy {cells[3]}", highlight=False)

    def __rich__(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for title in ("run", "", "epoch", "loss", "accuracy", "branches"):
            table.add_column(title, justify="left" if title in ("run", "", "branches") else "right", no_wrap=True)
        for name, line in self.runs.items():
            state, epoch, loss, accuracy, branches = _cells(line)
            bar: RenderableType = Text(state, style=_STYLES.get(state, ""))
            if state == "trains":
                bar = ProgressBar(total=1.0, completed=line.get("progress", 0.0), width=16)
            table.add_row(name, bar, epoch, loss, accuracy, branches)
        done = sum(line["state"] == "done" for line in self.runs.values())
        head = Text(f"{self.rule}\n" if self.rule else "", style="dim")
        return Group(head, table, Text(f"{done} of {len(self.runs)} runs done", style="dim"))


_STYLES = {"done": "green", "failed": "red", "stopped": "red", "waits": "dim"}
_STATES = {"done": "done", "end": "done", "failed": "failed", "stop": "stopped"}


def _update(line: dict[str, Any], event: Mapping[str, Any]) -> None:
    line["state"] = _STATES.get(event["kind"], "trains")
    for key in ("progress", "epoch", "total"):
        if key in event:
            line[key] = event[key]
    if event["kind"] == "start":
        line["epochs"] = event["config"].get("epochs")
    if event["kind"] == "epoch" and event["validation"]:
        line["accuracy"] = event["validation"]["accuracy"]
        line["total"] = event["train"]["total"]


def _cells(line: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    accuracy = dict(line.get("accuracy") or {})
    main = accuracy.pop("main", None)
    epoch = str(line.get("epoch", ""))
    if epoch and line.get("epochs"):
        epoch += f"/{line['epochs']}"
    total = line.get("total")
    return (
        line["state"],
        epoch,
        "" if total is None else f"{total:.3f}",
        "" if main is None else f"{main:.1%}",
        "  ".join(f"{name} {value:.0%}" for name, value in accuracy.items()),
    )
