"""Our own networks by name: `resnet-32`, `wrn-28-10`, `unet`, ...; each is registered where it is written.

@family("wrn-N-K", "wrn-16-8", "wrn-28-10")
def wrn(depth: int, widen: int, *, classes: int, in_channels: int = 3, dropout: float = 0.0) -> WideResNet: ...
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from deepsup.errors import ConfigError
from deepsup.specs import closest

MOST = 9_999
FROM_THE_DATA = {"classes", "in_channels", "size"}

Make = TypeVar("Make", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class Family:
    """Networks that differ in the numbers of their names; what `family` registers."""

    form: str
    make: Callable[..., nn.Module]
    listed: tuple[str, ...]
    also: Callable[..., nn.Module] | None
    fixed: Mapping[str, Any]
    reads: str  # "images" or "tokens"

    @property
    def options(self) -> list[str]:
        """What a user may ask of `make` beyond the name and what the data decides."""
        takers = [self.make] if self.also is None else [self.make, self.also]
        parameters = [p for taker in takers for p in inspect.signature(taker).parameters.values()]
        named = dict.fromkeys(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        return [name for name in named if name not in FROM_THE_DATA | self.fixed.keys()]

    def numbers(self, name: str) -> tuple[int, ...] | None:
        """The numbers in `name`, or None if it is no name of this family."""
        match = re.fullmatch(re.sub("[A-Z]", r"(\\d+)", self.form), name)
        return None if match is None else tuple(map(int, match.groups()))


FAMILIES: dict[str, Family] = {}  # by form


def family(
    form: str, *listed: str, also: Callable[..., nn.Module] | None = None, reads: str = "images", **fixed: Any
) -> Callable[[Make], Make]:
    """Register a function that makes networks.

    `form` is the name with a capital letter for each number, in the order in which the function takes them; `listed`
    are the members that the papers trained, where there are numbers; `fixed` are arguments that the name decides; `also`
    is the function that the keywords go on to which this one does not know (`**`); `reads` says of what: "images" or "tokens".
    """

    def register(make: Make) -> Make:
        if form in FAMILIES:
            raise ValueError(f"two networks are registered as {form!r}")
        FAMILIES[form] = Family(form, make, listed or (form,), also, fixed, reads)
        return make

    return register


def listed() -> tuple[str, ...]:
    """Our own networks in the sizes that the papers trained."""
    return tuple(name for each in FAMILIES.values() for name in each.listed)


def find(name: str) -> tuple[Family, tuple[int, ...]] | None:
    """The family of `name` and the numbers in it, or None where no family has such names."""
    found = ((each, each.numbers(name)) for each in FAMILIES.values())
    return next(((each, numbers) for each, numbers in found if numbers is not None), None)


def build_own(
    name: str, *, classes: int, in_channels: int = 3, size: int | None = None, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build one of the package's own networks by its name.

    Example: `build_own("wrn-28-10", classes=100, options={"dropout": 0.3})`.

    `size`, the side of the square input, goes to the networks that are built for one size. Raises ConfigError for a name
    that no family has, numbers that a family cannot have, and options that it does not take.
    """
    options = dict(options or {})
    found = find(name)
    if found is None:
        known = [f"deepsup:{known}" for known in listed()]
        raise ConfigError(
            f"no network of ours is called 'deepsup:{name}'.{closest(f'deepsup:{name}', known, most=3, cutoff=0.75)} There "
            f"are {', '.join(FAMILIES)}. List them with deepsup.networks.names()."
        )
    its, numbers = found
    if max(numbers, default=0) > MOST:
        raise ConfigError(f"'deepsup:{name}' would take for ever: the numbers in a name are at most {MOST}.")
    unknown = sorted(options.keys() - set(its.options))
    if unknown:
        takes = f"It takes: {', '.join(its.options)}." if its.options else "It takes none."
        raise ConfigError(f"'deepsup:{name}' has no option {', '.join(unknown)}. {takes}{missing_space(unknown)}")
    known_of_data = {"classes": classes, "in_channels": in_channels}
    if size is not None and "size" in inspect.signature(its.make).parameters:
        known_of_data["size"] = size
    return its.make(*numbers, **known_of_data, **its.fixed, **options)


def missing_space(options: Iterable[str]) -> str:
    """What an error adds about an option such as `activation:prelu`, which YAML reads as a key; empty where none is."""
    for option in options:
        key, colon, value = option.partition(":")
        if colon and value:
            return f" Write a space after the colon, {key}: {value}, or model_options.{key}={value}."
    return ""
