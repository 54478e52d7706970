"""What every group of settings has in common: frozen, strict, laid over one another, and explained when wrong.

    settings = check(TrainConfig, {"epochs": 3}, where="digits.yaml")

A key that does not exist is an error that names the closest one that does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from deepsup import documents
from deepsup.errors import ConfigError
from deepsup.specs import closest

S = TypeVar("S", bound="Settings")

LONGEST, LARGEST, DEEPEST = 2**20, 20_000, 40  # characters, values and levels of a text in YAML


FURTHEST = 2**32 - 1  # a whole number in settings: what seeds may be
_STRANGE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys are refused; the text below a key is its line in docs/settings.md."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _holds_nothing_odd(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
        inner = any(isinstance(kind, type) and issubclass(kind, Settings) for kind in kinds)  # looks at its own
        for one in [] if inner else _scalars(value):
            if isinstance(one, bool) and not kinds & {bool, Any}:
                raise ConfigError(f"found {str(one).lower()}, and it is no switch.")
            if isinstance(one, (int, float)) and not abs(one) <= (
                FURTHEST if isinstance(one, int) else sys.float_info.max
            ):
                raise ConfigError(f"found {one!r:.40}; numbers are finite, and whole ones at most {FURTHEST}.")
            if isinstance(one, str) and (strange := _STRANGE.search(one)):
                raise ConfigError(
                    f"found {strange[0]!r} in {one!r:.80}; texts are in UTF-8, without control characters."
                )
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The plain types that an annotation is made of; `bool` where a literal is one."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        yield from map(type, inner)
    elif inner:
        for one in inner:
            yield from _kinds(one)
    else:
        yield annotation


def _scalars(value: Any) -> Iterator[Any]:
    """What is no list and no mapping in a value, keys too."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield key
            yield from _scalars(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _scalars(one)
    else:
        yield value


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which the last would win and the first be lost."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node: Any = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def _check_size(node: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node is when every alias is written out, and how deep they lie; refuses what is too much."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = (LARGEST, DEEPEST)  # while it is looked at: an alias of itself has no end
    inside = [] if isinstance(node, yaml.ScalarNode) else node.value
    parts = [part for one in inside for part in (one if isinstance(one, tuple) else (one,))]
    sizes = [_check_size(part, known) for part in parts]
    size, depth = 1 + sum(n for n, _ in sizes), 1 + max((d for _, d in sizes), default=0)
    if size > LARGEST or depth > DEEPEST:
        much = (
            f"more than {LARGEST} values, its aliases written out," if size > LARGEST else f"more than {DEEPEST} levels"
        )
        raise yaml.MarkedYAMLError(problem=f"it holds {much} here", problem_mark=node.start_mark)
    known[id(node)] = (size, depth)
    return size, depth


def _parsed(text: str) -> Any:
    """What a YAML text says; everything that can be wrong with it is a `YAMLError`."""
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"it has {len(text)} characters, and settings have {LONGEST} at most")
    try:
        loader = _Loader(text)
        node: Any = loader.get_single_node()
        if node is not None:
            _check_size(node, {})
        return None if node is None else loader.construct_document(node)
    except (ValueError, KeyError, RecursionError) as error:  # 2001-99-99, !!bool abc, [[[[...
        raise yaml.YAMLError(f"{type(error).__name__}: {str(error)[:200]}") from None


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, key by key; anything that is not a mapping on both sides is replaced."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def override(data: dict[str, Any], text: str) -> dict[str, Any]:
    """The data with one `key.key=value` laid over it; the value is read as YAML."""
    key, equals, raw = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"cannot read the override {text!r}. Write key=value, for example optimizer.lr=0.1.")
    try:
        value = _parsed(raw)
    except yaml.YAMLError:
        raise ConfigError(f"cannot read the value in {text!r} as YAML. Quote it, or check its brackets.") from None
    if isinstance(value, str):
        value = _number(value)
    return merge(data, nested(key, value))


def nested(key: str, value: Any) -> dict[str, Any]:
    """The mapping in which a dotted key has that value.

    >>> nested("optimizer.lr", 0.1)
    {'optimizer': {'lr': 0.1}}
    """
    *above, last = key.split(".")
    found = {last: value}
    for part in reversed(above):
        found = {part: found}
    return found


def _number(text: str) -> Any:
    """YAML 1.1 reads `1e-3` as text because it has no dot; a person means a number."""
    return float(text) if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text) else text


def flattened(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted key; an empty mapping is a value."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `ConfigError` where there is none."""
    try:
        text = path.read_text("utf-8") if str(path).startswith("/dev/") else documents.content(path).decode("utf-8")
        data = _parsed(text)
    except FileNotFoundError:
        hint = f" Did you mean model={path}?" if ":" in str(path) else ""
        raise ConfigError(f"no configuration file at {path}. Give the path of a YAML file.{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}. Give the path of a YAML file.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, (dict, type(None))):
        raise ConfigError(f"{path} must hold keys and values, such as `epochs: 3`; found a {type(data).__name__}.")
    return data or {}


def check(model: type[S], data: dict[str, Any], *, where: str) -> S:
    """The data as that kind of settings, or a `ConfigError` that says what is wrong `where`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(model, error, where))) from None


def _explain(model: type[Settings], error: ValidationError, where: str) -> list[str]:
    lines: dict[str, str] = {}
    for problem in error.errors():
        path, fields = _walk(model, problem["loc"])
        key = ".".join(path)
        cause = problem.get("ctx", {}).get("error")
        message = problem["msg"][0].lower() + problem["msg"][1:]
        if problem["type"] == "extra_forbidden":
            section = ".".join(path[:-1]) or "the top level"
            hint = closest(path[-1], fields, most=3, cutoff=0.5)
            lines[key] = f"there is no key {key!r}.{hint} Keys of {section}: {', '.join(fields)}."
        elif isinstance(cause, ConfigError):
            lines[key] = f"{key + ': ' if key else ''}{cause}"
        elif problem["type"] == "missing":
            lines[key] = f"the key {key!r} is missing."
        elif key in lines:  # a union reports once for each of its members
            lines[key] += f" Or: {message}."
        else:
            lines[key] = f"{key} cannot be {problem['input']!r}: {message}."
    return [f"{where}: {line}" for line in lines.values()]


def _walk(model: type[Settings], loc: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The keys of an error's location, without pydantic's names for members of unions, and the keys valid there."""
    path: list[str] = []
    here: type[Settings] | None = model
    fields = list(model.model_fields)
    for part in loc:
        if here is None:  # inside a list or a union of plain types: the key above says enough
            break
        path.append(str(part))
        fields = list(here.model_fields)
        field = here.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        here = next((k for k in kinds if isinstance(k, type) and issubclass(k, Settings)), None)
    return path, fields
