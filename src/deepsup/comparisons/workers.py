"""A process that trains one run after another for a comparison: `python -m deepsup.comparisons.workers [THREADS]`.

Tasks come in as lines of JSON on standard input, journal records and results go out as lines on standard output;
whatever a run prints itself goes to its `run.log`. One process serves many runs, because importing takes longer than a
small run. Told to stop (SIGTERM) it ends after the step it is in and a checkpoint. When standard input closes, the
comparison has ended or died, and so does the worker, at once.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch

from deepsup.errors import DeepsupError
from deepsup.settings import configs, training
from deepsup.training import runs


def main() -> None:
    """Serve until standard input closes."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for name in {"SIGINT", "SIGHUP"} & set(dir(signal)):  # the comparison's, which tells its workers to stop
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # a run writes a checkpoint first
    os.dup2(2, 1)  # a stray print must not end up among the replies
    if len(sys.argv) > 1:
        torch.set_num_threads(int(sys.argv[1]))
    tasks: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    while True:
        _serve(tasks.get(), replies)


def _listen(tasks: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)  # also in the middle of a run: nobody is left to read the result, and the checkpoint allows it


def _serve(task: dict[str, Any], replies: TextIO) -> None:
    def reply(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    config = configs.parse(task["config"], where=task["run"])
    assert isinstance(config, training.TrainConfig)
    with _output_to(Path(config.output) / "run.log"):
        try:
            result = runs.train(
                config, on_record=lambda record: reply(record=record), group=task["group"], arm=task["arm"]
            )
            reply(done=True, already_done=result.already_done)
        except Exception as error:
            traceback.print_exc()
            named = str(error) if isinstance(error, DeepsupError) else f"{type(error).__name__}: {error}"
            reply(done=True, error=named)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Send what this process prints, also from C++, to a file; an empty file is removed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(1), os.dup(2)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, saved in enumerate(before, start=1):
                os.dup2(saved, number)
                os.close(saved)
    if not log.stat().st_size:
        log.unlink()


if __name__ == "__main__":
    main()
