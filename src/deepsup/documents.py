"""Files that anybody may have written: read without waiting for a pipe, and parsed so that what is wrong is a `ValueError`."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any


def content(path: str | Path, *, most: int | None = None) -> bytes:
    """The bytes of a file, `most` of them. Raises `OSError` where there is none, or something that is no file."""
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read() if most is None else file.read(most)


def parsed(data: bytes | str) -> Any:
    """What a text in JSON says. Raises `ValueError` for every text that says nothing."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_odd(path: Path) -> bool:
    """Whether something is there and no file: a folder, a pipe, a link to nothing."""
    return os.path.lexists(path) and not path.is_file()


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe that nobody writes to would never open
