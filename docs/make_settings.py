"""Writes the tables and lists of docs/settings.md anew: `python docs/make_settings.py`.

Tables come from the settings' own classes, lists of names from the registries. The text between them is written by hand,
in docs/settings.md; `<!-- table SECTION -->` and `<!-- names REGISTRY -->` say where one begins.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from deepsup.datasets.layouts import LAYOUTS
from deepsup.gradients import RULES
from deepsup.heads import HEADS
from deepsup.losses import LOSSES
from deepsup.methods import BUILDERS
from deepsup.schedules import SCHEDULES
from deepsup.settings.comparison import ComparisonConfig
from deepsup.settings.section import Settings
from deepsup.settings.training import TrainConfig
from deepsup.specs import Registry
from deepsup.training.loggers import LOGGERS

PAGE = Path(__file__).with_name("settings.md")
TABLE = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", flags=re.S)
NAMES = re.compile(r"(<!-- names (\S+) -->\n).*?(<!-- end -->)", flags=re.S)
REGISTRIES: Mapping[str, Registry[Any]] = {
    "datasets": LAYOUTS,
    "methods": BUILDERS,
    "heads": HEADS,
    "losses": LOSSES,
    "schedules": SCHEDULES,
    "rules": RULES,
    "loggers": LOGGERS,
}

_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true`, `false`",
    type(None): "null",
    Any: "value",
}


def sections() -> dict[str, type[Settings]]:
    """The settings by section: `run`, `comparison`, and under its dotted key each section of a run."""
    return {"run": TrainConfig, **_below(TrainConfig, ""), "comparison": ComparisonConfig}


def render(page: str) -> str:
    """The page with the tables as they should be."""
    found = sections()
    page = TABLE.sub(lambda match: match[1] + table(match[2], found[match[2]]) + match[3], page)
    return NAMES.sub(lambda match: match[1] + names(REGISTRIES[match[2]]) + match[3], page)


def names(registry: Registry[Any]) -> str:
    """What is registered, a line each: its name, its options, the first sentence about it."""
    return "".join(f"- {_called(name, made, registry)}: {_summary(made)}\n" for name, made in registry.items())


def _called(name: str, made: Callable[..., Any], registry: Registry[Any]) -> str:
    parameters = inspect.signature(made).parameters.values()
    if isinstance(made, type):
        return f"`{name}({', '.join(p.name for p in parameters)})`" if parameters else f"`{name}`"
    every = registry.kind == "method"  # of the others what a text cannot give stands before the options
    options = [p.name for p in parameters if (every or p.kind is p.KEYWORD_ONLY) and p.name not in registry.hidden]
    return f"`{name}` ({', '.join(options)})" if options else f"`{name}`"


def _summary(made: Callable[..., Any]) -> str:
    paragraph = " ".join((inspect.getdoc(made) or "").partition("\n\n")[0].split())
    return re.split(r"(?<!al\.)(?<!eq\.)(?<=[^.]{3}\.)\s", paragraph, maxsplit=1)[0]


def table(section: str, model: type[Settings]) -> str:
    """The keys of one section as a Markdown table."""
    prefix = "" if section in ("run", "comparison") else f"{section}."
    rows = [[f"`{prefix}{key}`", *_row(f"{prefix}{key}", field)] for key, field in model.model_fields.items()]
    lines = [["key", "default", "what it means", "values"], ["---"] * 4, *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _below(model: type[Settings], prefix: str) -> dict[str, type[Settings]]:
    found: dict[str, type[Settings]] = {}
    for key, field in model.model_fields.items():
        if (inner := _section(field)) is not None:
            found |= {prefix + key: inner, **_below(inner, f"{prefix}{key}.")}
    return found


def _section(field: FieldInfo) -> type[Settings] | None:
    kinds = (field.annotation, *get_args(field.annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Settings)), None)


def _row(key: str, field: FieldInfo) -> list[str]:
    section = _section(field)
    if section is not None:
        link = f"[its own keys](#{key.replace('.', '')})"
        default, values = ("`null`", f"null, or {link}") if field.default is None else ("see there", link)
        return [default, str(section.__doc__), values]
    limits = [
        f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in _SIGNS.items() if hasattr(m, name)
    ]
    limits += [f"{m.min_length} or more" for m in field.metadata if hasattr(m, "min_length")]
    return [_default(field), str(field.description), ", ".join([_kind(field.annotation), *limits])]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none"
    return f"`{json.dumps(field.default).strip(chr(34))}`" if field.default != "" else ""


def _kind(annotation: Any) -> str:
    """A type in words: `list[str]` is a list of text."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_kind, inner))
    if origin is list:
        return f"list of {_kind(inner[0])}{'s' if inner[0] in (int, Any) else ''}"
    if origin is Annotated:
        return _kind(inner[0])
    if origin is tuple and inner[-1] is ...:
        return f"list of {_kind(inner[0])}"
    if origin is tuple:
        return "[height, width]"
    if origin is dict:
        return "mapping" if inner[1] is Any else f"mapping to {_in_brackets(_kind(inner[1]))}"
    return _WORDS[annotation]


def _in_brackets(kind: str) -> str:
    return f"({kind})" if " or " in kind else kind


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
