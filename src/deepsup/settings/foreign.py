"""What the settings of a run ask for that a file may not: networks from elsewhere, as the model or in a head, and losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from deepsup import heads
from deepsup.errors import ConfigError, HeadError
from deepsup.losses import import_paths
from deepsup.trust import Asked, of_network


def asks(run: Mapping[str, Any]) -> list[Asked]:
    """All that one run asks for; `run` are its settings as plain values."""
    found = of_network(run["model"], run["model_options"])
    for text in _of(run.get("supervise"), "head"):
        with suppress(HeadError):  # what is no head is told where it is asked for
            found += heads.asks(text)
    for loss in (str(run.get("loss") or ""), *_of(run.get("supervise"), "loss"), *_of(run.get("embedding"), "loss")):
        with suppress(ConfigError):
            found += import_paths.asks(loss) if loss else []
    return found


def _of(supervise: object, part: str) -> Iterator[str]:
    """The heads or losses in `supervise` settings, and in those that the control `equal-compute` follows."""
    if isinstance(supervise, Mapping):
        given = supervise.get(part)
        yield from (str(text) for text in (given.values() if isinstance(given, Mapping) else [given] if given else []))
        yield from _of(supervise.get("like"), part)
