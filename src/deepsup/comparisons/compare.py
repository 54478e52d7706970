"""Several arms, the same seeds, several processes: run a comparison and judge it by the rule that was written before.

    result = compare(load("demo.yaml"))
    result["groups"][0]["verdicts"]["dhm"]["verdict"]        # helps | no evidence | hurts

Its folder holds `config.yaml`, `compare.json` and one folder a run: `GROUP/ARM/seedN/`.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from deepsup import ownership
from deepsup.comparisons import detectable, results
from deepsup.comparisons.looks import looks_of, with_another_seed
from deepsup.comparisons.statistics import levels
from deepsup.datasets import Dataset
from deepsup.errors import ConfigError, DeepsupError
from deepsup.files import write_atomically
from deepsup.settings import configs, training
from deepsup.settings.comparison import Cell, ComparisonConfig
from deepsup.settings.training import DataConfig
from deepsup.training import prepare, runs
from deepsup.training.locks import locked
from deepsup.training.records import ACCURACY
from deepsup.training.run_folders import document, listed_runs

Event = dict[str, Any]

LOG_LINES = 20
GRACE = 10.0  # seconds that a worker has for the step it is in and a checkpoint


def compare(config: ComparisonConfig, *, on_event: Callable[[Event], None] | None = None) -> dict[str, Any]:
    """Run what has not finished yet and return the content of `compare.json`; safe to stop and start again.

    Seed by seed, all arms of one before the next; with `until: decided` one more seed after the other until it is. With
    `config.minutes` no further seed is begun once that time is over; what is there is judged, `missing` lists the rest, and
    the next call goes on with it.

    `on_event` sees first `{"kind": "rule", "rule", "notes", "detectable", "runs", "finished"}`, then every journal record with
    its `run`, `{"kind": "done" | "failed", "run", ...}` after each, and `{"kind": "seed", "seed", "runs"}` before one more.
    Raises `ConfigError` for a folder that holds another comparison and, before anything runs, for an arm that cannot be
    trained; and `DeepsupError` when runs failed: the others are kept and judged, the failed ones start again next time, with
    other settings of their arm if no run of it has finished. A run whose loss was not finite has not failed: it counts as a
    score of 0.
    """
    tell = on_event or (lambda event: None)
    folder = Path(config.output)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("a comparison starts its own processes; run it without torchrun, and set jobs= instead.")
    runs.check_folder(folder, config)
    with locked(folder):
        cells = config.expand()
        pending = [cell for cell in cells if not _has_ended(folder, cell)]
        sees = _check_arms(pending, config)
        stated = _state(config, folder, pending, sees)
        done = [cell.run for cell in cells if cell not in pending]
        notes = stated.get("notes", [])  # not in files of earlier versions
        told = {"rule": stated["rule"], "notes": notes, "detectable": (sees or {}).get("says")}
        tell({"kind": "rule", **told, "runs": [c.run for c in cells], "finished": done})
        if stated["complete"] and not pending:
            return stated
        result, failures = _run_seeds(config, stated, pending, tell)
        _write(result, folder)
    if failures:
        first, problem = next(iter(failures.items()))
        raise DeepsupError(
            f"{len(failures)} of {len(listed_runs(result))} runs failed: {', '.join(failures)}. The others are kept.\n"
            f"{first}: {problem}\n"
            f"Repair the cause and start the comparison again: only these run again.{_tail(folder / first, problem)}"
        )
    return result


def _run_seeds(
    config: ComparisonConfig, stated: dict[str, Any], pending: list[Cell], tell: Callable[[Event], None]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run what is pending, and with `until: decided` further seeds, one at a time; the result, and what failed and why."""
    folder, looks = Path(config.output), looks_of(config)
    rounds, failures = Rounds(pending, minutes=config.minutes), dict[str, str]()
    while True:
        failed = _run_all(rounds, jobs=min(config.jobs, len(pending)), folder=folder, tell=tell)
        failures |= {run: why for run, why in failed if not runs.diverged(folder / run)}  # that is a result
        result = results.summarise(config, stated, looks=looks, timed=False)
        if failures or result["complete"] or result["missing"] or rounds.late():
            return results.summarise(config, stated, looks=looks), failures
        _write(result, folder)
        config = with_another_seed(config)
        pending = [cell for cell in config.expand() if not _has_ended(folder, cell)]
        for cell in pending:
            _set_aside(folder / cell.run, cell.config)
        tell({"kind": "seed", "seed": config.seeds[-1], "runs": [cell.run for cell in pending]})
        rounds.add(pending)


def _has_ended(folder: Path, cell: Cell) -> bool:
    """Whether there is nothing left to run: it has finished, or diverged with these very settings."""
    run = folder / cell.run
    if runs.finished(run) is not None:
        return True
    return runs.diverged(run) and not configs.differences(configs.load(run / "config.yaml", trust=True), cell.config)


def _check_arms(pending: Iterable[Cell], config: ComparisonConfig) -> dict[str, Any] | None:
    """Raise `ConfigError` for the first arm that cannot be trained as set, looking at one seed of each in each group.

    Returns what the comparison can see on the images that were loaded for that; None where nothing is pending.
    """
    loaded: dict[DataConfig, Dataset] = {}
    first: dict[tuple[str, str], Cell] = {}
    for cell in pending:
        first.setdefault((cell.group, cell.arm), cell)
    for cell in first.values():
        settings = cell.config.data
        try:
            loaded[settings] = prepare.check_run(cell.config, loaded.get(settings))
        except DeepsupError as error:
            raise ConfigError(f"arm {cell.arm!r} cannot be trained: {error}") from error
    if not loaded:
        return None
    images = min(data.validation.n_images for data in loaded.values()) if config.score_name == ACCURACY else None
    looks, number = looks_of(config), len(config.candidates) * len(config.groups)
    level = levels([1.0] * number, config.confidence, correction=config.correction)[0]
    seeds, level = (looks.most, looks.level(level)) if looks else (len(config.seeds), level)
    return detectable.stated(seeds, images, results.pilot(config), metric=config.score_name, confidence=level)


def _state(
    config: ComparisonConfig, folder: Path, pending: Iterable[Cell], sees: dict[str, Any] | None
) -> dict[str, Any]:
    """What `compare.json` says before anything runs; on a later start what it said then, unless arms have changed since.

    What was begun of a changed arm is set aside as `seedN.old1`.
    """
    path, file = folder / "compare.json", folder / "config.yaml"
    if path.exists():
        if not configs.differences(configs.load(file, trust=True), config, ignore=runs.FREE):
            return document(path)
        for cell in pending:
            _set_aside(folder / cell.run, cell.config)
        stated = results.announce(config) | {"detectable": sees}
        _write(stated, folder)  # first, so that one who is stopped here does all of this again
        write_atomically(file, lambda to: configs.save(config, to))
        return stated
    ownership.write(folder, "config.yaml", lambda to: configs.save(config, to))
    stated = results.announce(config) | {"detectable": sees}
    _write(stated, folder)
    return stated


def _set_aside(run: Path, config: training.TrainConfig) -> None:
    """Rename the folder of a run that was begun with other settings."""
    file = run / "config.yaml"
    if not file.exists() or not configs.differences(configs.load(file, trust=True), config):
        return
    number = 1
    while (aside := run.with_name(f"{run.name}.old{number}")).exists():
        number += 1
    run.rename(aside)


def _write(result: dict[str, Any], folder: Path) -> None:
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / "compare.json", lambda file: file.write_text(text, "utf-8"))


class Rounds:
    """Cells to run, in order and a seed at a time; after `minutes` those of a seed that has not begun stay behind."""

    def __init__(self, cells: Iterable[Cell], *, minutes: float | None = None) -> None:
        self._cells, self._begun = list(cells), set[int]()
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._lock = threading.Lock()  # every worker takes from here

    def add(self, cells: Iterable[Cell]) -> None:
        """Further cells, after those that are left."""
        with self._lock:
            self._cells += cells

    def late(self) -> bool:
        """Whether the time is over."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def take(self) -> Cell | None:
        """The next cell, or None when there is none left or no time; what has begun in one arm is run in all."""
        with self._lock:
            if not self._cells or (self.late() and self._begun and self._cells[0].seed not in self._begun):
                return None
            cell = self._cells.pop(0)
            self._begun.add(cell.seed)
            return cell


def _run_all(cells: Rounds, *, jobs: int, folder: Path, tell: Callable[[Event], None]) -> Iterator[tuple[str, str]]:
    """Run the cells in order in `jobs` processes; yields the name and the problem of each that failed."""
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    threads = 1 if jobs > 1 else None  # several runs at a time leave no core idle
    logs = [f".worker{i}.log" for i in range(jobs)]
    ownership.refuse_foreign(folder, logs)
    ownership.claim(folder, logs)
    workers = [_Worker(cells, events, log=folder / log, threads=threads) for log in logs]
    try:
        for worker in workers:
            worker.start()
        open_ = jobs
        while open_:
            event = events.get()
            if event is None:
                open_ -= 1
                continue
            tell(event)
            if event["kind"] == "failed":
                yield event["run"], event["error"]
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join(timeout=GRACE)
            worker.kill()
        for worker in workers:
            worker.join(timeout=GRACE)


class _Worker(threading.Thread):
    """One worker process and the thread that feeds it; a process that dies takes one run with it, not all of them."""

    def __init__(
        self,
        cells: Rounds,
        events: queue.SimpleQueue[Event | None],
        *,
        log: Path,
        threads: int | None,
    ) -> None:
        super().__init__(daemon=True)
        self._cells, self._events, self._log, self._threads = cells, events, log, threads
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def run(self) -> None:
        try:
            while not self._stopped and (cell := self._cells.take()) is not None:
                self._events.put(self._train(cell))
        finally:
            self._end()
            self._log.unlink(missing_ok=True)
            self._events.put(None)

    def _train(self, cell: Cell) -> Event:
        process = self._process = self._process or self._launch()
        if self._stopped:
            process.kill()
        task = {"run": cell.run, "group": cell.group, "arm": cell.arm, "config": cell.config.model_dump(mode="json")}
        for message in _exchange(process, task):
            if "record" in message:
                self._events.put({**message["record"], "run": cell.run})
            elif "error" in message:
                return {"kind": "failed", "run": cell.run, "error": message["error"]}
            else:
                return {"kind": "done", "run": cell.run, "already_done": message["already_done"]}
        code = self._end()
        if self._stopped:
            return {"kind": "failed", "run": cell.run, "error": "it was interrupted."}
        last = self._log.read_text("utf-8", "replace").strip().splitlines()[-LOG_LINES:]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return {"kind": "failed", "run": cell.run, "error": "\n".join([f"its process {how}.", *last])}

    def _launch(self) -> subprocess.Popen[str]:
        here = str(Path(__file__).parents[2])  # so that the same deepsup is found that is running now
        path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        threads = [] if self._threads is None else [str(self._threads)]
        with self._log.open("w") as log:
            return subprocess.Popen(
                # -P: nothing is imported from the current folder but what the settings name.
                [sys.executable, "-P", "-m", "deepsup.comparisons.workers", *threads],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": path},
            )

    def stop(self) -> None:
        """Ask the process to end: a run that is under way writes a checkpoint first, from which it goes on next time."""
        self._stopped = True
        if (process := self._process) is not None:
            process.terminate()

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        if (process := self._process) is not None:
            process.kill()

    def _end(self) -> int:
        """See a process off and return its exit code; only the thread that reads its answers does that."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass
        return process.wait()


def _exchange(process: subprocess.Popen[str], task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Send a task and yield the answers; they end early when the process dies."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            yield json.loads(line)
    except (BrokenPipeError, ValueError):  # it died with half a line on its lips
        return


def _tail(folder: Path, problem: str) -> str:
    """The end of a run's log; only its place for an error of ours, which says itself what to do."""
    log = folder / "run.log"
    if not log.exists():
        return ""
    text = log.read_text("utf-8", "replace").strip()
    if text.endswith(f"Error: {problem}".rstrip()):
        return f"\nWhere it was raised is in {log}."
    lines = text.splitlines()[-LOG_LINES:]
    return f"\nThe end of {log}:\n" + "\n".join(f"  {line}" for line in lines)
