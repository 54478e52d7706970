"""Writes the cards of docs/methods.md anew, from the methods themselves: `python docs/make_methods.py`.

The text around them is written by hand; the cards stand between `<!-- methods -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

from deepsup.methods import METHODS, Method

PAGE = Path(__file__).with_name("methods.md")
CARDS = re.compile(r"(<!-- methods -->\n).*?(<!-- end -->)", flags=re.S)
CODE = ("formula", "head", "loss", "weight", "gradient", "main loss", "options")


def render(page: str) -> str:
    """The page with the cards as they should be."""
    return CARDS.sub(lambda match: match[1] + "\n" + "\n".join(map(card, METHODS.values())) + "\n" + match[2], page)


def card(method: Method) -> str:
    """One method: what it does, and its facts as a list."""
    facts = [
        f"- **{title}**: " + (f"`{text}`" if title in CODE else text)
        for title, text in method.facts().items()
        if text != "-"
    ]
    return "\n".join([f"### {method.name}", "", f"{method.summary[0].upper()}{method.summary[1:]}.", "", *facts, ""])


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
