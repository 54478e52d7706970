"""A report as its reader sees it: a table as text, a page without its markup."""

from __future__ import annotations

from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from deepsup import reports


def shown(table: Any, *, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


class Page(HTMLParser):
    """What a browser would see: every tag with its attributes, the cells of every table, and the text outside scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""
        if tag in ("table", "h2"):
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            return
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def group_of(folder: Path, index: int = 0) -> dict[str, Any]:
    group: dict[str, Any] = reports.evidence(folder).compare["groups"][index]
    return group
