"""Being told to stop in the middle of a step: first the step and a checkpoint, then the end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class PutOff:
    """Inside the block the first signal that a Python function would answer only sets `asked`; `answer` calls that function.

        with PutOff(wanted=True) as stop:
            for batch in batches:
                step(batch)
                if stop.asked:
                    save()
                    stop.answer()  # KeyboardInterrupt, after Ctrl-C

    A second signal is answered at once. Signals that end the process, or are ignored, do so as before; outside of the
    main thread nothing is put off.
    """

    def __init__(self, *, wanted: bool) -> None:
        self.asked: int | None = None
        self._before: dict[int, Callable[..., Any]] = {}
        self._wanted, self._process = wanted, os.getpid()

    def __enter__(self) -> PutOff:
        if self._wanted and threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                answer = signal.getsignal(number)
                if callable(answer):
                    self._before[number] = answer
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.asked is None:
            self._restore()

    def answer(self) -> None:
        """Do now what the signal asked for, if one came."""
        if self.asked is not None:
            number, self.asked = self.asked, None
            self._before[number](number, None)

    def _note(self, number: int, frame: Any) -> None:
        self._restore()
        if os.getpid() != self._process:  # a process that loads data, forked in the block
            self._before[number](number, frame)
            return
        self.asked = number

    def _restore(self) -> None:
        for number, answer in self._before.items():
            signal.signal(number, answer)
