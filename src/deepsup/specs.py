"""Texts that name something with its options: `kl(temperature=3)`, `cnds(hidden=256)`, `dsn-released(until=0.5)`.

One reader for losses, heads and methods. A text is parsed, never evaluated as code; an option is a keyword-only
parameter of what the name stands for.

>>> read("kl(temperature=3)", LOSSES, "loss", ConfigError)
('kl', {'temperature': 3})
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal, TypeAlias

from deepsup.errors import DeepsupError

Kind: TypeAlias = Literal["loss", "head", "method", "augmentation", "dataset", "activation"]

# How the list of known names goes on in an error, by kind: before them, and after.
_LISTS = {
    "loss": ("Losses: ", "; or pass a function"),
    "head": ("Heads: auto, ", "; or pass your own module"),
    "method": ("Methods: ", ""),
    "augmentation": ("Augmentations: ", ""),
    "dataset": ("Data sets: ", ""),
    "activation": ("Activations: ", ""),
}
_CALL = re.compile(r"([^\W\d][\w-]*)\s*(\(.*\))?", re.DOTALL)


def read(
    text: object,
    known: Mapping[str, Callable[..., object]],
    kind: Kind,
    error: type[DeepsupError],
    *,
    hidden: Collection[str] = (),
) -> tuple[str, dict[str, object]]:
    """`"name(option=value, ...)"` as name and options, in the order in which they are written.

    Values are Python literals: numbers, texts in quotes, True, None, lists and so on. Keyword-only parameters named in
    `hidden` are no options. Raises `error` for a name that is not in `known`, an option that its callable does not
    have, one that is written twice, and a value that is no literal; each says what there is.
    """
    name, call = _parsed(text)
    if name not in known:
        raise error(_unknown_name(text, name, known=known, kind=kind))
    takes = options(known[name], hidden=hidden)
    if call is not None and call.args:
        raise error(_unknown_name(text, name, known=known, kind=kind))
    found: dict[str, object] = {}
    for keyword in call.keywords if call else ():
        option = str(keyword.arg)
        if option not in takes:
            listed = f"Options: {', '.join(takes) or 'none'}."
            raise error(f"{kind} {name!r} has no option {keyword.arg!r}. {listed}{closest(option, takes)}")
        if option in found:
            raise error(f"{kind} {text!r} gives the option {option!r} twice. Write it once.")
        try:
            found[option] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise error(
                f"{kind} {text!r} has an option that is no plain value. Write numbers, or texts in quotes."
            ) from None
    return name, found


def options(function: Callable[..., object], *, hidden: Collection[str] = ()) -> tuple[str, ...]:
    """The names of the options that a text may give to `function`: its keyword-only parameters, but for `hidden`."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in hidden)


def show_call(name: str, options: Mapping[str, object]) -> str:
    """The text that `read` reads back: `kl(temperature=3)`, or `kl` where there are no options."""
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items())})" if options else name


def closest(name: str, known: Iterable[str]) -> str:
    """`" Closest: NAME."` with the known name most like `name`, or nothing when none is; `miou` is like `mean IoU`."""
    plain = {_plain(one): one for one in known}
    close = difflib.get_close_matches(_plain(name), list(plain), n=1, cutoff=0.6)
    return f" Closest: {plain[close[0]]}." if close else ""


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.casefold())


def _parsed(text: object) -> tuple[str, ast.Call | None]:
    """The name in a text and the call that gives its options, if there is one; else the text as it stands."""
    if not isinstance(text, str):
        return "", None
    shape = _CALL.fullmatch(text.strip())
    if shape is None:
        return text, None
    name, arguments = shape.groups()
    if arguments is None:
        return name, None
    try:
        node = ast.parse(f"_{arguments}", mode="eval").body  # a name may have a hyphen, which Python reads as a minus
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text, None
    return (name, node) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else (text, None)


def _unknown_name(text: object, name: str, *, known: Mapping[str, object], kind: Kind) -> str:
    before, after = _LISTS[kind]
    by_name = " Options are written by name: option=value." if name in known else ""
    return f"no {kind} is called {text!r}.{closest(name, known)}{by_name} {before}{', '.join(known)}{after}."
