"""A process is ended at a random moment, and started again: what comes of it is what an unbroken one leaves.

`train`, `compare` and `fit` are forked from a process that has imported everything; so are the workers of `compare`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import deepsup as ds
from deepsup.files import save_weights
from tests.campaigns.outcomes import Campaign, snapshot, story
from tests.campaigns.started_runs import of_a_comparison, of_a_run, write_settings
from tests.support.warm_python import Process, WarmPython

KINDS = ("train", "fit", "compare")
ME = "tests.campaigns.kills"
ENOUGH = {"train": 6, "fit": 6, "compare": 3}  # kills; the next start is left in peace
TELLING = ("model.safetensors", "heads.safetensors", "plan.json", "answers.json")


class Unbroken(NamedTuple):
    """What a kind of run leaves when nobody disturbs it, and how long it takes."""

    seconds: float
    left: dict[str, Any]


class Warm(NamedTuple):
    """The server that forks everything, what to expect, and how often what was done."""

    python: WarmPython
    unbroken: dict[str, Unbroken]
    counts: Counter[str]


def prepare(place: Path, python: WarmPython | None = None, kinds: Sequence[str] = KINDS) -> Warm:
    """Every kind of run once, undisturbed."""
    place.mkdir(parents=True, exist_ok=True)
    warm = Warm(python or WarmPython(), {}, Counter())
    for kind in kinds:
        start(warm, kind, place).wait()  # the first one imports what the server has not
        shutil.rmtree(place / "OUT")
        began = time.perf_counter()
        code = start(warm, kind, place).wait()
        assert code == 0, (place / "log").read_text()
        warm.unbroken[kind] = Unbroken(time.perf_counter() - began, left(place / "OUT"))
        shutil.rmtree(place / "OUT")
    return warm


def start(warm: Warm, kind: str, place: Path) -> Process:
    """One attempt at `place`/OUT."""
    out, file = place / "OUT", place / "asked.yaml"
    told = of_a_comparison(out) if kind == "compare" else of_a_run(out, epochs=4, checkpoint={"every_steps": 3})
    write_settings(file, told)
    words = ["-m", "deepsup", "train", str(file)] if kind == "train" else ["-m", ME, kind, str(file)]
    with (place / "log").open("a") as log:
        workers = os.dup(warm.python.fileno())
        try:
            return warm.python.start(words, stdin=workers, stdout=log, stderr=log)
        finally:
            os.close(workers)


def left(folder: Path) -> dict[str, Any]:
    """Hashes of weights, and what the journals tell."""
    found: dict[str, Any] = {n: h for n, h in snapshot(folder).items() if Path(n).name in TELLING}
    for journal in sorted(folder.rglob("journal.jsonl")):
        found[str(journal.relative_to(folder))] = story(journal)
    return found


def case(warm: Warm, number: int, place: Path) -> list[str]:
    """One run that is killed until it has ended, some ten times at the most."""
    draw = random.Random(f"kills {number}")
    kind = list(warm.unbroken)[number % len(warm.unbroken)]
    shutil.rmtree(place / "OUT", ignore_errors=True)
    (place / "log").write_text("")
    unbroken, kills, wrong = warm.unbroken[kind], 0, []
    while True:
        process = start(warm, kind, place)
        number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        if kills < ENOUGH[kind]:
            time.sleep(draw.uniform(0, 1.1) * unbroken.seconds)
            process.send(number)
        try:
            code = process.wait(timeout=120)
        except TimeoutError:
            return [*wrong, f"{kind} hung after {kills} kills"]
        if code == 0:
            break
        kills += 1
        warm.counts[f"kills of {kind} by {signal.Signals(number).name}"] += 1
        if kills > ENOUGH[kind] or code not in (-number, 128 + number, 1 if number == signal.SIGINT else 0):
            wrong.append(f"{kind} after {kills} kills ended with {code}")
            break
    said = (place / "log").read_text()
    wrong += [f"{kind}: a traceback: {said[-1500:]}"] if "Traceback" in said else []
    if not wrong and (found := left(place / "OUT")) != unbroken.left:
        names = [name for name in found.keys() | unbroken.left.keys() if found.get(name) != unbroken.left.get(name)]
        wrong.append(f"{kind} after {kills} kills left another {', '.join(sorted(names))}")
    rest = [name for name in snapshot(place / "OUT") if Path(name).name.startswith(".")] if not wrong else []
    return wrong + ([f"{kind} left {rest}"] if rest else [])


CAMPAIGN = Campaign("kills", prepare, case, target=90, short=3)


def fit(out: Path) -> None:
    """A supervised fit on a few batches, as in somebody's own script."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trunk = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 3))
    x, y = torch.randn(64, 8), torch.arange(64) % 3
    net = ds.attach(trunk, ds.plan(trunk, x[:2], at=["1"], head="linear"))
    batches = list(zip(x.split(8), y.split(8), strict=True))
    engine = {"accelerator": "cpu", "threads": 1}
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    ds.fit(
        net, batches, epochs=12, optimizer=optimizer, validation=batches, folder=out, checkpoint_every=5, engine=engine
    )
    save_weights(ds.strip(net), out / "model.safetensors")


def main() -> None:
    kind, file = sys.argv[1], Path(sys.argv[2])
    if kind == "fit":
        fit(file.parent / "OUT")
        return
    from deepsup.cli import app
    from deepsup.comparisons import compare

    workers = WarmPython.reached(socket.socket(fileno=os.dup(0)))
    compare.subprocess = workers.instead_of_subprocess()  # type: ignore[assignment]
    sys.argv = ["deepsup", "compare", str(file)]
    app.run()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # before the command is there that knows what to do, or in `fit`, which raises it
        sys.exit(128 + signal.SIGINT)
