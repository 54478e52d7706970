"""What the settings of a run ask for that a file may not: networks from elsewhere, as the model or in a head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from deepsup import heads
from deepsup.errors import HeadError
from deepsup.trust import Asked, of_network


def asks(run: Mapping[str, Any]) -> list[Asked]:
    """All that one run asks for; `run` are its settings as plain values."""
    found = of_network(run["model"], run["model_options"])
    for text in _heads(run.get("supervise")):
        with suppress(HeadError):  # what is no head is told where it is asked for
            found += heads.asks(text)
    return found


def _heads(supervise: object) -> Iterator[str]:
    """The heads in `supervise` settings, and in those that the control `equal-compute` follows."""
    if isinstance(supervise, Mapping):
        head = supervise.get("head")
        yield from (str(text) for text in (head.values() if isinstance(head, Mapping) else [head] if head else []))
        yield from _heads(supervise.get("like"))
