"""The keys of a plan in JSON: what may stand under each, what it means, and how far back files are without it.

    TRUNK = Record({"params": Key(COUNT), "flops": Key(COUNT)})
    parsed({"params": 3, "flops": 4}, TRUNK)

A new part of a plan is one `Key` more with the next number in `since`, and what a file without it meant in `absent`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deepsup import documents
from deepsup.errors import DeepsupError, PlanError
from deepsup.specs import Limit, between, closest, is_number

LARGEST: Final = 16 * 2**20  # bytes of a file; a plan has some hundred for each branch
_LONGEST = 10_000  # characters of a text
_MOST = 2**63 - 1  # of any count
_NUMBERS = 2**34  # in one activation or batch: 64 GiB


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MOST


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST and value.isprintable()


def _is_shape(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or not all(_is_whole(n, 1) for n in value):
        return False
    numbers = 1
    for n in value:
        numbers *= n
    return len(value) <= 9 and numbers <= _NUMBERS


TEXT = Limit("a text in one line", _is_text)
NAME = Limit("a text in one line that is not empty", lambda v: _is_text(v) and bool(v))
SPEC = Limit(
    "a text that names something registered (custom:... stands for your own, which JSON cannot hold: make this plan in Python)",
    lambda v: _is_text(v) and not v.startswith("custom:"),
)
FINGERPRINT = Limit("12 hex digits", lambda v: _is_text(v) and len(v) == 12 and set(v) <= set("0123456789abcdef"))
WEIGHT = Limit(f"a number or {SPEC.says}", lambda v: SPEC.fits(v) or is_number(v))
COUNT = Limit("a whole number of at least 0", lambda v: _is_whole(v, 0))
ABOVE_0 = Limit("a whole number of at least 1", lambda v: _is_whole(v, 1))
SHARE = between(0, 1)
SHAPE = Limit(f"a list of at most 9 whole numbers of at least 1, {_NUMBERS:.2g} values in all", _is_shape)
TEXTS = Limit("a list of texts", lambda v: isinstance(v, (list, tuple)) and all(map(_is_text, v)))
NAMES = Limit("a list of names", lambda v: isinstance(v, (list, tuple)) and all(map(NAME.fits, v)))
BRACKET = Limit(
    "null or a list of two numbers of at least 0",
    lambda v: v is None or (isinstance(v, (list, tuple)) and len(v) == 2 and all(is_number(n) and n >= 0 for n in v)),
)


@dataclass(frozen=True)
class Key:
    """What stands under one key: a plain value within `limit`, one object, or a list of objects (`many`).

    `read` says what a plain value means; it may raise a `DeepsupError`. Files of before `since`, a number that grows
    by 1 with every change of the format, have no such key and mean `absent`.
    """

    kind: Limit | Record
    read: Callable[[Any], Any] = lambda value: value
    many: bool = False
    since: int = 0
    absent: Any = None


@dataclass(frozen=True)
class Record:
    """An object of JSON: its keys, and what is made of their values."""

    keys: Mapping[str, Key]
    make: Callable[..., Any] = dict


def parsed(data: object, record: Record) -> Any:
    """What an object of JSON means. Raises `PlanError` with the key, the value that was found and what is allowed.

    A file has all keys of the time when it was written: one that has a younger key and lacks an older one was altered.
    """
    return _parsed(data, record, "", max(_times(data, record), default=0))


def _parsed(data: object, record: Record, path: str, written: int) -> Any:
    if not isinstance(data, Mapping):
        raise _damaged(path or "the whole", data, "an object")
    for key in data:
        if key not in record.keys:
            hint = closest(str(key), record.keys)
            raise PlanError(
                f"the plan is damaged: there is no key {_below(path, key)!r}.{hint} Keys: {', '.join(record.keys)}."
            )
    found: dict[str, Any] = {}
    for name, key in record.keys.items():
        if name in data:
            found[name] = _value(data[name], key, _below(path, name), written)
        elif key.since > written:
            found[name] = key.absent
        else:
            raise PlanError(f"the plan is damaged: {_below(path, name)!r} is missing. Plan again.")
    try:
        return record.make(**found)
    except DeepsupError as error:
        raise PlanError(f"the plan is damaged: {path + ': ' if path else ''}{error}") from None


def _value(value: object, key: Key, path: str, written: int) -> Any:
    if isinstance(key.kind, Record):
        if not key.many:
            return _parsed(value, key.kind, path, written)
        if not isinstance(value, (list, tuple)):
            raise _damaged(path, value, "a list of objects")
        return tuple(_parsed(item, key.kind, f"{path}[{n}]", written) for n, item in enumerate(value))
    if not key.kind.fits(value):
        raise _damaged(path, value, key.kind.says)
    try:
        return key.read(value)
    except DeepsupError as error:
        raise PlanError(f"the plan is damaged: {path} is {value!r:.200}: {error}") from None


def _times(data: object, record: Record) -> Iterator[int]:
    """The `since` of all keys that are there, at any depth."""
    if not isinstance(data, Mapping):
        return
    for name, key in record.keys.items():
        if name not in data:
            continue
        yield key.since
        if isinstance(key.kind, Record):
            for item in data[name] if isinstance(data[name], (list, tuple)) else [data[name]]:
                yield from _times(item, key.kind)


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else f"{key}"


def _damaged(path: str, value: object, allowed: str) -> PlanError:
    return PlanError(f"the plan is damaged: {path} is {value!r:.200}, and needs to be {allowed}. Plan again.")


def read_json(path: Path) -> object:
    """What a file of JSON holds. Raises `PlanError` for a file that cannot be read, is too large or says a thing twice."""
    try:
        content = documents.content(path, most=LARGEST + 1)
        if len(content) > LARGEST:
            raise PlanError(f"{path} is not a plan: it holds more than {LARGEST // 2**20} MiB. Plan again and save it.")
        return json.loads(content, object_pairs_hook=_each_once, parse_constant=_no_number)
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror or error}. Give the file of a plan.") from None
    except PlanError:
        raise
    except (ValueError, RecursionError) as error:  # no JSON, or no text at all
        raise PlanError(f"{path} is not a plan: it is no valid JSON ({error}). Plan again and save it.") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")
