"""Heads by name: the registry, texts such as `cnds(hidden=256)`, and the building of heads.

A head is named by a text (`"pool"`, `"cnds(hidden=256)"`), or is the user's own: a module, or a function of
`(feature, classes)` that returns one. `"shared(pool)"` is made once, for the first branch that says it, and is that of all.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from torch import nn

from deepsup import trust
from deepsup.errors import HeadError, MissingPackageError
from deepsup.features import Feature, Pick
from deepsup.specs import Registry

Builder: TypeAlias = Callable[..., nn.Module]
HeadLike: TypeAlias = "str | nn.Module | Builder"

AUTO = "auto"
CONTEXT = frozenset({"model", "layer", "main"})  # what `build` gives to builders that ask for it, and no text can
HEADS = Registry[Builder]("head", HeadError, hidden=CONTEXT)
_SHARED = re.compile(r"shared\((.*)\)", re.DOTALL)


class Traits(NamedTuple):
    """What a head says of itself where it is registered; what it says nothing of is as here."""

    scores: bool = True  # it gives class scores, and not an embedding or a gate
    light: bool = False  # little lies between its loss and the trunk, so that early on it pulls hard
    large: bool = False  # published larger than many a trunk; no surprise where a method has it for all branches
    fitted: bool = False  # methods choose its options for each layer, however large that makes it
    whole: bool = False  # on the model's input it is a whole network
    as_model: bool = False  # it gives its scores in the layout of the model's own


_TRAITS: dict[Builder, Traits] = {}


def head(**traits: bool) -> Callable[[Builder], Builder]:
    """Register a head by its own name, with its `Traits`: `@head(light=True)`. Without any, `@HEADS.register` does it."""

    def registered(builder: Builder) -> Builder:
        _TRAITS[builder] = Traits(**traits)
        return HEADS.register(builder)

    return registered


def describe(head: HeadLike) -> Traits:
    """What is known of a head; one of the user's own and `"auto"` give class scores."""
    if not isinstance(head, str) or AUTO in (head, made_once(head)):
        return Traits()
    return _TRAITS.get(HEADS[read(head)[0]], Traits())


def made_once(head: HeadLike) -> str | None:
    """The head that `"shared(pool)"` makes once for all branches that say it, `"pool"`; None for any other head."""
    inside = _SHARED.fullmatch(head.strip()) if isinstance(head, str) else None
    return inside[1].strip() if inside else None


def resolve(text: str, feature: Feature, *, places: int = 0) -> str:
    """`"auto"` as the head it stands for: `fcn` where the model predicts maps, `tokenwise` where it predicts at every token,
    `token` for tokens, `pool` for everything else. Others stay.

    `places`: how many axes of places the model's prediction has.
    """
    inside = made_once(text)
    if inside is not None:
        return f"shared({resolve(inside, feature, places=places)})"  # in one spelling
    if text != AUTO:
        return text
    if places:
        return "tokenwise" if feature.layout == "NLC" and places == 1 else "fcn"
    return "token" if feature.layout == "NLC" else "pool"


def build(
    head: HeadLike,
    feature: Feature,
    classes: int,
    *,
    model: nn.Module | None = None,
    layer: str | None = None,
    main: Pick = (),
) -> nn.Module:
    """The head as a module: built from its text, returned by the user's function, or the user's module itself.

    Builders that declare keyword-only `model`, `layer` or `main`, a head's or the user's, are given the model that is
    supervised, the layer that the branch reads, and where in the model's output its prediction is (a pick, `()` for a bare
    tensor); they must leave the model as it is. Raises `HeadError` for a head that cannot
    be built, or that needs a model where there is none.
    """
    if isinstance(head, nn.Module):
        return head
    if isinstance(head, str):
        name, options = read(head)
        options |= _context(HEADS[name], head, model, layer, main)
        try:
            return HEADS[name](feature, classes, **options)
        except (HeadError, MissingPackageError):
            raise
        except Exception as error:  # whatever a builder makes of an option that is out of its range
            raise HeadError(
                f"head {head!r} cannot be built for an activation of {feature} a sample: {error}."
            ) from None
    context = _context(head, show(head), model, layer, main)
    try:
        built = head(feature, classes, **context)
    except TypeError as error:
        raise HeadError(
            f"the head function {show(head)} is called as head(feature, classes) and failed: {error}. `feature` has "
            "channels, size, shape and layout; return an nn.Module."
        ) from error
    if not isinstance(built, nn.Module):
        raise HeadError(f"the head function {show(head)} returned {type(built).__name__}; it must return an nn.Module.")
    return built


def _context(
    builder: Callable[..., nn.Module], shown: str, model: nn.Module | None, layer: str | None, main: Pick
) -> dict[str, object]:
    """Those of model, layer and main that the builder declares. One with a default is left out where there is none to give."""
    given: dict[str, object] = {"model": model, "layer": layer, "main": main}
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):  # a callable without a readable signature cannot ask
        return {}
    asked = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in CONTEXT]
    missing = [p.name for p in asked if given[p.name] is None and p.default is p.empty]
    if missing:
        raise HeadError(
            f"head '{shown}' is made from the model that it supervises, and no {' and no '.join(missing)} was given. "
            "Name it in plan(model, ...), or pass model= and layer= to heads.build."
        )
    return {p.name: given[p.name] for p in asked if given[p.name] is not None}


def read(text: str) -> tuple[str, dict[str, object]]:
    """`"cnds(hidden=256)"`, also in `"shared(...)"`, as name and options; nothing is evaluated as code. Raises `HeadError`."""
    inside = made_once(text)
    return HEADS.read(text if inside is None else inside)


def asks(head: HeadLike) -> list[trust.Asked]:
    """What the text of a head asks for that a file may not: a head with an option `name` has a network of that name."""
    if not isinstance(head, str) or head == AUTO:
        return []
    options = read(head)[1]
    name, given = options.get("name"), options.get("options")
    return trust.of_network(name, given if isinstance(given, Mapping) else None) if isinstance(name, str) else []


def show(head: HeadLike) -> str:
    """A head as a plan prints it: its text, or `custom:` and the name of the user's module or function."""
    if isinstance(head, str):
        return head
    name = type(head).__name__ if isinstance(head, nn.Module) else getattr(head, "__name__", type(head).__name__)
    return f"custom:{name}"
