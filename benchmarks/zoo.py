"""Try deepsup on the architectures of five model zoos: plan, attach, train a step, strip, and hold every law.

    python benchmarks/zoo.py                         # one model a family; writes results/zoo.json and docs/zoo.md
    python benchmarks/zoo.py --only timm:swin        # the rows whose key holds this text (repeatable)
    python benchmarks/zoo.py --all                   # every member of every timm and torchvision family
    python benchmarks/zoo.py --resume                # only what is not in the results yet

Every model is small, starts from random weights, and runs in a process of its own kind with a time limit. Expected
time: about 20 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import zoo_page  # noqa: E402
from zoo_models import Entry, Model, PlainError, catalogue, prepare, quiet  # noqa: E402

LIMIT_SECONDS = 120
ROWS_A_WORKER = 25  # then a fresh one, so that what zoos keep in memory goes
PACKAGES = ("torch", "torchvision", "timm", "transformers", "monai", "segmentation-models-pytorch")


def run(entry: Entry) -> dict[str, Any]:
    """Try one entry; never raises. The row says `pass`, `refused`, `plain` (fails without deepsup) or `failed`."""
    import torch
    from zoo_laws import BrokenLaw, Findings, examine

    import deepsup as ds

    torch.set_num_threads(1)
    began, findings, model = time.perf_counter(), Findings(), None
    outcome, message = "pass", ""
    try:
        with quiet():
            model = prepare(entry)
        examine(model, findings)
        if findings.doubts:
            outcome, message = "failed", "layout: " + "; ".join(findings.doubts)
    except PlainError as error:
        outcome, message = "plain", str(error)
    except BrokenLaw as error:
        outcome, message = "failed", f"broken law: {error}"
    except ds.errors.DeepsupError as error:
        outcome, message = "refused", f"{type(error).__name__}: {error}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome, message = "failed", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    seconds = round(time.perf_counter() - began, 1)
    return _row(entry, model, outcome, message[:600], seconds, findings.plan)


def _row(
    entry: Entry, model: Model | None, outcome: str, message: str, seconds: float, plan: Any = None
) -> dict[str, Any]:
    branches = plan.branches if plan else ()
    return {
        "zoo": entry.zoo,
        "family": entry.family,
        "name": model.name if model else entry.name,
        "input": list(model.shape) if model else [],
        "parameters": plan.params if plan else None,
        "outcome": outcome,
        "message": message,
        "layers": [
            {"layer": b.layer, "depth": b.depth, "shape": list(b.feature.shape), "layout": b.feature.layout}
            for b in branches
        ],
        "seconds": seconds,
    }


def _work(connection: Connection) -> None:
    """A worker process: entries in, rows out, until `None`."""
    while (entry := connection.recv()) is not None:
        connection.send(run(entry))


def _supervise(todo: queue.Queue[Entry], rows: queue.Queue[tuple[Entry, dict[str, Any]]], limit: float) -> None:
    """Feed one worker after another until nothing is left; a worker that is late or dies costs its row only."""
    spawn = multiprocessing.get_context("spawn")
    worker, connection, served = None, None, 0
    while True:
        try:
            entry = todo.get_nowait()
        except queue.Empty:
            break
        if worker is None or connection is None:
            connection, there = spawn.Pipe()
            worker, served = spawn.Process(target=_work, args=(there,), daemon=True), 0
            worker.start()
            there.close()
        try:
            connection.send(entry)
            row = connection.recv() if connection.poll(limit) else None
            problem = f"no answer in {limit:.0f} s"
        except (EOFError, OSError):
            row, problem = None, "the process died"
        rows.put((entry, row or _row(entry, None, "failed", problem, limit)))
        served += 1
        if row is None or served == ROWS_A_WORKER:
            worker.kill()
            worker.join()
            worker = connection = None
    if worker is not None and connection is not None:
        connection.send(None)
        worker.join()


def run_all(entries: list[Entry], *, jobs: int, limit: float) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Every entry with its row, as they come, by `jobs` worker processes."""
    todo: queue.Queue[Entry] = queue.Queue()
    rows: queue.Queue[tuple[Entry, dict[str, Any]]] = queue.Queue()
    for entry in entries:
        todo.put(entry)
    for _ in range(jobs):
        threading.Thread(target=_supervise, args=(todo, rows, limit), daemon=True).start()
    for _ in entries:
        yield rows.get()


def main() -> None:
    """Run, show progress, write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every member of every timm and torchvision family")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="rows whose key holds TEXT")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds a model (default %(default)s)")
    parser.add_argument("--resume", action="store_true", help="only what is not in the results yet")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "zoo.json")
    args = parser.parse_args()
    entries = catalogue(everything=args.all)
    wanted = [e for e in entries if not args.only or any(text in e.key for text in args.only)]
    partial = args.resume or bool(args.only)
    known = {r["key"]: r for r in json.loads(args.out.read_text())["rows"]} if partial and args.out.exists() else {}
    if args.resume:
        wanted = [e for e in wanted if e.key not in known]
    for number, (entry, row) in enumerate(run_all(wanted, jobs=args.jobs, limit=args.limit), 1):
        known[entry.key] = {"key": entry.key, **row}
        told = f"{row['outcome']} {row['message']} ({row['seconds']} s)"
        print(f"{number}/{len(wanted)} {entry.key} {row['name']}: {told}", flush=True)
        order = {e.key: 0 for e in entries if e.key in known} | dict.fromkeys(known, 0)
        args.out.write_text(json.dumps(_result([known[k] for k in order], everything=args.all), indent=1) + "\n")
    if args.out == HERE / "results" / "zoo.json":
        zoo_page.write(args.out)


def _result(rows: list[dict[str, Any]], *, everything: bool) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE)
    return {
        "command": f"python benchmarks/zoo.py{' --all' * everything}",
        "commit": commit.stdout.strip(),
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in PACKAGES}},
        "hardware": f"CPU, {platform.machine()}, 1 thread a model",
        "rows": rows,
    }


if __name__ == "__main__":
    main()
