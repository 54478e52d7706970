"""The optional packages a report is drawn with, and one kind message when they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from deepsup.errors import MissingPackageError


def need(module: str, *, purpose: str, extra: str = "report") -> Any:
    """Import `module`, or say which extra brings it.

    >>> need("json", purpose="this example").dumps([1])
    '[1]'

    Raises `MissingPackageError`. A package that is there but broken keeps its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise MissingPackageError(
            f'{purpose} needs the package {package}, which is not installed. Run: pip install "deepsup[{extra}]"'
        ) from error
