"""A loss of the user's or of another library by its import path, so that a plan which uses it can be stored."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from torch import Tensor

from deepsup import trust
from deepsup.errors import ConfigError, HeadError
from deepsup.losses.named import Loss, Named, get, loss
from deepsup.losses.resized import resized
from deepsup.losses.resizing import POLICIES
from deepsup.specs import Limit, one_of

PATH = Limit(
    "a text 'package.module:NAME'",
    lambda v: (
        isinstance(v, str) and v.count(":") == 1 and all(p.isidentifier() for p in v.replace(":", ".").split("."))
    ),
)
OPTIONS = Limit("a mapping of names to plain values, or None", lambda v: v is None or isinstance(v, Mapping))


@loss(resizes=True, kinds=())
def imported(
    prediction: Tensor,  # (N, C, *places)
    target: Any,
    *,
    path: Annotated[str, PATH] = "torch.nn.functional:cross_entropy",
    options: Annotated[Mapping[str, Any] | None, OPTIONS] = None,
    resize: Annotated[str | None, one_of("enlarge", "interpolate", *POLICIES, None)] = None,
) -> Tensor:
    """The function at `path`, or an instance of the class there, made with `options`: `imported(path='monai.losses:DiceLoss',
    options={'sigmoid': True}, resize='interpolate')`.

    It is given channels on axis 1; `resize` brings maps and target to one size (`losses.resized`). Nothing is imported before
    the loss is first computed, and from a plan that was read from a file only with `trust=True`. Say what the output is:
    `plan(..., task=)`. Raises `ConfigError` where there is no such thing, `HeadError` where it returns no tensor.
    """
    value = _made(path, json.dumps(dict(options or {}), sort_keys=True), resize)(prediction, target)
    if not isinstance(value, Tensor):
        raise HeadError(f"loss {path} returned {type(value).__name__}; it must return one number as a tensor.")
    return value


@functools.lru_cache(maxsize=64)
def _made(path: str, options: str, resize: str | None) -> Callable[..., Any]:
    """What stands at `path`, with options as JSON, ready to be called."""
    module, _, name = path.partition(":")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise ConfigError(
            f"{path} is a part of Python itself, which has no losses. Write 'package.module:NAME' of your own."
        )
    found: Any
    try:
        found = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"there is no loss {path}: {error}. Write 'package.module:NAME' of what can be imported."
        ) from None
    given = json.loads(options)
    made = found(**given) if isinstance(found, type) else functools.partial(found, **given) if given else found
    if not callable(made):
        raise ConfigError(f"{path} is a {type(found).__name__}, which cannot be called with a prediction and a target.")
    return made if resize is None else resized(made, resize)


def asks(one: str | Loss) -> list[trust.Asked]:
    """What the text of a loss asks for that a file may not: to import something."""
    found = get(one) if isinstance(one, str) else None
    if not isinstance(found, Named) or found.name != "imported":
        return []
    options = dict(found.options)
    path = str(options.get("path", "torch.nn.functional:cross_entropy"))
    return [trust.Asked(path, f"import the module {path.partition(':')[0]} and call {path} as a loss")]
