"""The packages that networks come from: importing one, calling it, and what is said when that fails."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from deepsup.errors import ConfigError, MissingPackageError


def closest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """What an error adds about names that look like `name`; empty where none does."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Closest: {', '.join(prefix + match for match in matches)}." if matches else ""


def missing_space(options: Iterable[str]) -> str:
    """What an error adds about an option such as `activation:prelu`, which YAML reads as a key; empty where none is."""
    for option in options:
        key, colon, value = option.partition(":")
        if colon and value:
            return f" Write a space after the colon, {key}: {value}, or model_options.{key}={value}."
    return ""


def require(package: str, *, install: str = "deepsup[train]") -> ModuleType:
    """The imported package. Raises MissingPackageError, which says what to `install`, where it is not there."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingPackageError(
            f'{package} is not installed, and the model asked for comes from it: pip install "{install}"'
        ) from None


def unknown(name: str, package: str, known: Iterable[str], *, listing: str) -> str:
    """What an error says about a model that a package does not have; the Python expression `listing` gives all."""
    command = f'python -c "import {package}; print({listing})"'
    return f"{package} has no model called {name!r}.{closest(name, known)} List all with: {command}"


def call(create: Callable[..., Any], spec: str, arguments: Mapping[str, Any]) -> Any:
    """Run a library's constructor; what it refuses becomes a ConfigError that shows what it was given."""
    try:
        return create(**arguments)
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError, OSError, NotImplementedError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise ConfigError(f"{spec!r} could not be built with {given}: {error}") from error
