"""What is known by a name, and the texts that name it: `kl(temperature=3)`, `cnds(hidden=256)`, `dsn-released(until=0.5)`.

A `Registry` holds what is registered where it is written. One reader for losses, heads, methods and the rest: a text is
parsed, never evaluated as code; an option is a keyword-only parameter of what the name stands for, and what it may be
stands in its annotation, as a `Limit`.

>>> read("kl(temperature=3)", LOSSES, "loss", ConfigError)
('kl', {'temperature': 3})
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import math
import operator
import pkgutil
import re
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from deepsup.errors import ConfigError, DeepsupError, MissingPackageError

Builder = TypeVar("Builder", bound=Callable[..., Any])

Kind: TypeAlias = Literal[
    "loss", "head", "method", "augmentation", "dataset", "activation", "schedule", "gradient rule", "logger"
]

# How the list of known names goes on in an error, by kind: before them, and after.
_LISTS = {
    "loss": ("Losses: ", "; or pass a function"),
    "head": ("Heads: auto, ", "; or pass your own module"),
    "method": ("Methods: ", ""),
    "augmentation": ("Augmentations: ", ""),
    "dataset": ("Data sets: ", ""),
    "activation": ("Activations: ", ""),
    "schedule": ("Schedules: ", ""),
    "gradient rule": ("Rules: ", ""),
    "logger": ("Loggers: ", ""),
}
_INSTALLED_AS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "sklearn": "scikit-learn",
}  # packages of another name
LATER: dict[str, Callable[[], Any]] = {}
"""Rooms that fill registries of rooms above them, to be imported when those are asked. The package's entrance, which may import
every room, puts them here."""

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


def closest(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> str:
    """`" Closest: NAME."` with the known names most like `name`, or nothing when none is; `miou` is like `mean IoU`.

    At most so many are named, the likest first, of a likeness of at least `cutoff` in [0, 1].
    """
    close = alike(name, known, most=most, cutoff=cutoff)
    return f" Closest: {', '.join(close)}." if close else ""


def alike(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names of `closest`."""
    plain = {_plain(one): one for one in known}
    return [plain[one] for one in difflib.get_close_matches(_plain(str(name)), list(plain), n=most, cutoff=cutoff)]


def counted(number: int, thing: str, things: str = "") -> str:
    """`"1 epoch"`, `"3 epochs"`; a plural that is not made with an s is given."""
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"


def is_number(value: object) -> bool:
    """Whether `value` is a finite number that a float can hold; bool is an int, and no number here."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # 10**400
        return False


def require(module: str, *, purpose: str, install: str = "deepsup[train]") -> Any:
    """The module, imported; for what the core does without.

    >>> require("json", purpose="this example").dumps([1])
    '[1]'

    Raises `MissingPackageError`, which says what needs the package and what to install. A package that is there but lacks
    something itself keeps its own error, which says it best.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingPackageError(
            f'{purpose} needs the package {_INSTALLED_AS.get(package, package)}, which is not installed: pip install "{install}"'
        ) from None
    return importlib.import_module(module)


def import_all(room: ModuleType, *, but: Collection[str] = ()) -> None:
    """Import every file of a room (a package), so that all it has is registered; a new file is found by being there."""
    for found in pkgutil.iter_modules(room.__path__):
        if found.name not in but:
            importlib.import_module(f"{room.__name__}.{found.name}")


@dataclass(frozen=True)
class Limit:
    """What an option may be, said where it is declared: `smooth: Annotated[float, at_least(0)] = 1e-5`."""

    says: str  # completes "needs smooth to be ..."
    fits: Callable[[Any], bool]


def _is_finite(value: object) -> bool:
    """Whether a number, numpy's and a tensor's too, is finite as a float."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # of several elements, or 10**400
        return False


def _is_whole(value: object) -> bool:
    try:
        return not isinstance(value, bool) and abs(operator.index(value)) < 2**63  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return False


FINITE = Limit("a finite number", _is_finite)
INTEGER = Limit("a whole number", _is_whole)
POSITIVE = Limit("a whole number of at least 1", lambda v: _is_whole(v) and v >= 1)
NOT_NEGATIVE = Limit("a finite number of at least 0", lambda v: _is_finite(v) and v >= 0)
"""Of Python calls, which are given numbers of numpy and torch, too."""


def hold(where: str, limit: Limit, **values: object) -> None:
    """Raise `ConfigError` for the first of the values that is not within the limit; None is left out."""
    for name, value in values.items():
        if value is not None and not limit.fits(value):
            raise ConfigError(f"{where}: {name} must be {limit.says}; found {value!r:.60}.")


ABOVE_ZERO = Limit("a finite number above 0", lambda v: is_number(v) and v > 0)
BELOW_ONE = Limit("a number in [0, 1)", lambda v: is_number(v) and 0 <= v < 1)
FLAG = Limit("True or False", lambda v: isinstance(v, bool))
WHOLE = Limit("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool) and abs(v) < 2**63)
COUNT = Limit("a whole number of at least 1", lambda v: WHOLE.fits(v) and v >= 1)
INDEX = Limit("a whole number of at least 0", lambda v: WHOLE.fits(v) and v >= 0)
STEPS = Limit("a whole number of at least 0, or None", lambda v: v is None or INDEX.fits(v))
TEXT = Limit("a text", lambda v: isinstance(v, str))


def at_least(least: float) -> Limit:
    """A finite number of at least so much."""
    return Limit(f"a number of at least {least:g}", lambda v: is_number(v) and v >= least)


def between(least: float, most: float) -> Limit:
    """A number in a closed range."""
    return Limit(f"a number from {least:g} to {most:g}", lambda v: is_number(v) and least <= v <= most)


def one_of(*choices: object) -> Limit:
    """One of a few values."""
    return Limit(
        " or ".join(map(repr, choices)),
        lambda v: any(v == c and isinstance(v, bool) == isinstance(c, bool) for c in choices),
    )


class Registry(Mapping[str, Builder], Generic[Builder]):
    """What can be named in one place of a plan or a setting; each thing is registered where it is written.

    >>> METALS = Registry[Callable[..., str]]("metal", ConfigError)
    >>> @METALS.register
    ... def iron(*, grams: Annotated[float, at_least(0)] = 1.0) -> str: ...
    >>> METALS.read("iron(grams=2)")
    ('iron', {'grams': 2})

    `kind` is what an error calls one of them; the errors are of the class `error`. Where `dashes`, a function
    `equal_compute` is known as `equal-compute`. Parameters in `hidden` are no options of a text.
    """

    def __init__(
        self, kind: Kind, error: type[DeepsupError], *, dashes: bool = False, hidden: Collection[str] = ()
    ) -> None:
        self.kind, self.error, self.hidden, self._dashes = kind, error, frozenset(hidden), dashes
        self._known: dict[str, Builder] = {}

    def register(self, builder: Builder) -> Builder:
        """Make a function or class known by its own name. Raises ValueError where the name is taken."""
        name = builder.__name__.replace("_", "-") if self._dashes else builder.__name__
        if self._known.setdefault(name, builder) is not builder:
            raise ValueError(f"two are registered as {self.kind} {name!r}")
        return builder

    def __getitem__(self, name: str) -> Builder:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def read(self, text: object) -> tuple[str, dict[str, object]]:
        """A text as name and options, see `read`, each option held against its limit."""
        name, found = read(text, self, self.kind, self.error, hidden=self.hidden)
        self.check(name, **found)
        return name, found

    def check(self, name: str, /, **options: object) -> None:
        """Raise the registry's error where an option is not what its annotation allows."""
        check_options(self[name], name, options, kind=self.kind, error=self.error)


def check_options(
    builder: Callable[..., object], name: str, options: Mapping[str, object], *, kind: Kind, error: type[DeepsupError]
) -> None:
    """Raise `error` where an option of `builder`, a function or a dataclass, is not what its annotation allows."""
    limits = _limits(builder)
    for option, value in options.items():
        limit = limits.get(option)
        if limit is not None and not limit.fits(value):
            raise error(f"{kind} {name!r} needs {option} to be {limit.says}; found {value!r}.")


@functools.cache  # losses ask in every call
def _limits(builder: Callable[..., object]) -> dict[str, Limit]:
    hints = typing.get_type_hints(builder, include_extras=True)
    found = {
        name: [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Limit)] for name, hint in hints.items()
    }
    usual = {name: _usual(hint) for name, hint in hints.items() if not found[name]}
    return {name: limits[0] for name, limits in found.items() if limits} | {n: one for n, one in usual.items() if one}


_USUAL: Mapping[Any, Limit] = {int: COUNT, float: at_least(0), bool: FLAG, str: TEXT}


def _usual(hint: Any) -> Limit | None:
    """What an option is that says its type alone: counts, numbers that are not negative, switches, texts, or None."""
    kinds = typing.get_args(hint) or (hint,)
    limits = [_USUAL[kind] for kind in kinds if isinstance(kind, type) and kind in _USUAL]
    nothing = type(None) in kinds
    if not limits or len(limits) + nothing < len(kinds):
        return None
    says = " or ".join([*(limit.says for limit in limits), *(["None"] if nothing else [])])
    return Limit(says, lambda v: (nothing and v is None) or any(limit.fits(v) for limit in limits))


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
