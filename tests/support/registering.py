"""Things of a test's own in a registry, for as long as the test runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from deepsup.specs import Registry


@contextmanager
def registered(registry: Registry[Any], builder: Callable[..., Any]) -> Iterator[None]:
    """Inside, `builder` is known by its own name; a decorator such as `@heads.head()` may have registered it already."""
    registry.register(builder)
    try:
        yield
    finally:
        known = registry._known
        del known[next(name for name in known if known[name] is builder)]
