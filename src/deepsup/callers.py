"""Whose line a warning points at: that of whoever called the package, never one of its own."""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


def outside() -> int:
    """The `stacklevel` for a `warnings.warn` in the function that asks: of the first frame outside of the package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    return level
