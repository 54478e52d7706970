"""Being told to stop: by a scheduler (SIGTERM) or with the terminal (SIGHUP), as by Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

NAMES = ("SIGTERM", "SIGHUP")
SOON = 0.05  # seconds


def stopped_by_signals() -> list[int]:
    """From now on these signals interrupt as Ctrl-C does; the list will hold the number of the one that came.

    A signal that is ignored (nohup) or handled already stays so. A second one ends the process at once. One that comes
    while Python tidies up an object, where it would be lost, comes again.
    """
    told: list[int] = []
    sys.unraisablehook = _again

    def stop(number: int, _: Any) -> None:
        told.append(number)
        for name in handled:
            signal.signal(name, signal.SIG_DFL)
        raise KeyboardInterrupt

    handled = [
        found
        for name in NAMES
        if (found := getattr(signal, name, None)) is not None and signal.getsignal(found) is signal.SIG_DFL
    ]
    for found in handled:
        signal.signal(found, stop)
    return told


def done() -> None:
    """From now on signals end the process at once: everything is written, and nothing is left to be interrupted."""
    for name in ("SIGINT", *NAMES):
        if (number := getattr(signal, name, None)) is not None and callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def _again(lost: sys.UnraisableHookArgs) -> None:
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(SOON, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)
