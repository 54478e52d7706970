"""Being told to stop: by a scheduler (SIGTERM) or with the terminal (SIGHUP), as by Ctrl-C."""

from __future__ import annotations

import signal
from typing import Any

NAMES = ("SIGTERM", "SIGHUP")


def stopped_by_signals() -> list[int]:
    """From now on these signals interrupt as Ctrl-C does; the list will hold the number of the one that came.

    A signal that is ignored (nohup) or handled already stays so. A second one ends the process at once.
    """
    told: list[int] = []

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
