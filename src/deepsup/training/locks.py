"""One process at a time in a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepsup.errors import ConfigError

LOCK_SECONDS = 10.0


@contextmanager
def locked(folder: Path, *, enabled: bool = True) -> Iterator[None]:
    """Keep other processes out of the folder; an operating system or a disk without locks trusts the user.

    Raises `ConfigError` where another process stays in it for `LOCK_SECONDS`.
    """
    try:
        import fcntl
    except ImportError:
        enabled = False
    if not enabled:
        yield
        return
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + LOCK_SECONDS  # a killed process needs a moment to let go
        while not _taken(lambda: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"another process is at work in {folder}. Wait for it, stop it, or choose another folder."
                )
            time.sleep(0.1)
        try:
            yield
        finally:
            if made:  # where nothing came of it, leave no empty folder behind
                with suppress(OSError):
                    folder.rmdir()
    finally:
        os.close(handle)


def _taken(lock: Callable[[], None]) -> bool:
    try:
        lock()
    except BlockingIOError:
        return False
    except OSError:  # some network disks have no locks
        return True
    return True
