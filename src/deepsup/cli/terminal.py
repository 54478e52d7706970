"""Where commands print."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

console = Console(markup=False, emoji=False)  # names and paths may hold brackets


def print_lines(lines: Iterable[str]) -> None:
    """Text as it is, whatever its brackets and colons, a line each."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
