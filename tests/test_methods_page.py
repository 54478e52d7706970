"""The page of methods says what the methods are."""

from __future__ import annotations

import runpy
from pathlib import Path

from deepsup.methods import METHODS

DOCS = Path(__file__).parents[1] / "docs"


def test_the_cards_are_those_of_the_methods() -> None:
    page = (DOCS / "methods.md").read_text("utf-8")
    maker = runpy.run_path(str(DOCS / "make_methods.py"))
    assert maker["render"](page) == page, "docs/methods.md is out of date: run `python docs/make_methods.py`."
    assert [line[4:] for line in page.splitlines() if line.startswith("### ")] == list(METHODS)
