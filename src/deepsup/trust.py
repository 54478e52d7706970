"""What a file may name by itself, and what only a person may: code that is neither ours nor a known library's.

`mymodule:Net` is imported and called. Typed, in Python or on the command line, that is what somebody wants; in a file
(settings, a plan, a checkpoint) it is what the file's author wants. So what is read from a file names known sources
only, unless the reader says `trust=True` or has typed the same name in this very call.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from deepsup.errors import TrustError

Trust: TypeAlias = "bool | Collection[str]"  # everything, nothing, or the names that stand in these texts

SOURCES = ("deepsup", "timm", "torchvision", "smp")  # of networks, before the colon
# Options by which timm, and so every network that is built on it, reads files or addresses of somebody's choice.
_READING = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


class Asked(NamedTuple):
    """Something that a file asks for and only a person may: its name, and in words what would happen."""

    name: str
    what: str


def of_network(name: str, options: Mapping[str, Any] | None = None) -> list[Asked]:
    """What the network `name` with these options asks for; empty where a known source makes it of plain values."""
    source, _, rest = name.partition(":")
    if rest and source not in SOURCES:
        given = ", ".join(f"{key}={value!r}" for key, value in (options or {}).items())
        return [Asked(name, f"import the module {source} and call {name}({given:.500})")]
    if ":" in rest:  # addresses within a source: timm's hf-hub:NAME, local-dir:PATH
        return [Asked(name, f"let {source} fetch {rest!r}")]
    return list(_of_options(name, options or {}))


def _of_options(name: str, options: Any) -> Iterable[Asked]:
    """What options ask for, within each other too."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            if key in _READING and value is not None:
                yield Asked(f"{key}={value}", f"let {name} read {key}={value!r:.200}")
            yield from _of_options(name, value)
    elif isinstance(options, (list, tuple)):
        for value in options:
            yield from _of_options(name, value)
    elif isinstance(options, str) and re.match(r"[\w.-]{2,}:", options) and options.partition(":")[0] not in SOURCES:
        yield Asked(options, f"give {name} the address {options!r:.200}")


def check(asked: Iterable[Asked], *, where: str, trust: Trust) -> None:
    """Raise `TrustError`, with all that would happen, unless `trust` covers what `where` asks for."""
    if trust is True:
        return
    texts = trust or ()
    open_ = {one.name: one.what for one in asked if not any(_names(text, one.name) for text in texts)}
    if open_:
        raise TrustError(
            f"{where} asks for code that is neither deepsup's nor a known library's; it would {'; and '.join(open_.values())}. "
            "Nothing was imported or run. If you know who wrote it, allow it in this call: --trust, in Python trust=True; or "
            f"type the name yourself. Known by themselves are {', '.join(SOURCES)} (timm:resnet18, say)."
        )


def _names(text: str, name: str) -> bool:
    """Whether `name` stands in a text that was typed, and not within another name."""
    return re.search(rf"(?<![\w.:]){re.escape(name)}(?![\w.:])", text) is not None
