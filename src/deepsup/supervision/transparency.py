"""A module around a model that looks like the model: its attributes, its forward's signature, its rules for optimisers.

>>> net.num_classes                               # the model's
>>> net.set_grad_checkpointing()                  # called on the model
>>> net.deep_supervision = False                  # set on the model, which has such an attribute
>>> inspect.signature(net.forward)                # the model's

Names of our own win; the model's of the same name is `net.model.NAME`. Names that begin with an underscore are never the
model's: libraries keep their notes on a module under such.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import nn

from deepsup.errors import PlanError
from deepsup.specs import require

_OWN = ("_modules", "_parameters", "_buffers")
Self = TypeVar("Self", bound="Transparent")


class Transparent(nn.Module):
    """Base of a module around one that is called `model`; what it has and we have not is reached through it.

    `show_model` ends the construction: before it, attributes are our own.
    """

    model: nn.Module

    def show_model(self) -> None:
        """From now on look like the model, in instances and in the class, where Hugging Face's Trainer reads signatures."""
        self.__dict__["_shows_model"] = True
        self.__class__ = _signed(type(self), self.model)

    def __getattr__(self, name: str) -> Any:
        for kind in _OWN:
            own = self.__dict__.get(kind)
            if own is not None and name in own:
                return own[name]
        if name.startswith("_") or "_shows_model" not in self.__dict__:
            return super().__getattr__(name)
        found = getattr(self.model, name)
        return partial(_RULES[name], found, self) if name in _RULES else found

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_of_model(name):
            setattr(self.model, name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self._is_of_model(name):
            delattr(self.model, name)
        else:
            super().__delattr__(name)

    def _is_of_model(self, name: str) -> bool:
        own = self.__dict__
        if name in own or name.startswith("_") or "_shows_model" not in own:
            return False
        ours = hasattr(type(self), name) or any(name in own[kind] for kind in _OWN)
        return not ours and hasattr(self.model, name)

    def __dir__(self) -> list[str]:
        theirs = dir(self.model) if "_shows_model" in self.__dict__ else ()
        return sorted({*super().__dir__(), *(name for name in theirs if not name.startswith("_"))})  # type: ignore[no-untyped-call]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (_made, (_unsigned(type(self)),), *super().__reduce_ex__(max(protocol, 2))[2:])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.show_model()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuse the model's own state dict in one sentence: strictly it would be a wall of keys, else nothing at all."""
        super()._load_from_state_dict(state_dict, prefix, *rest)  # hooks that rename keys first
        given = {key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}
        theirs = {name for name, _ in (*self.model.named_parameters(), *self.model.named_buffers())}
        if len(given & theirs) > len(given & {f"model.{name}" for name in theirs}):
            raise PlanError(
                f"these are weights of the plain {type(self.model).__name__}, without heads: load them into the model, "
                "net.model.load_state_dict(...); heads stay as they are."
            )


def _signed(kind: type[Self], model: nn.Module) -> type[Self]:
    """The class with the signature of the model's forward, where that can be read."""
    kind = _unsigned(kind)
    try:
        theirs = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return kind
    theirs = theirs.replace(return_annotation=inspect.Signature.empty)  # in training there are `Outputs` around it
    plain = kind.forward

    def forward(self: Self, *args: Any, **kwargs: Any) -> Any:
        return plain(self, *args, **kwargs)

    forward.__doc__ = model.forward.__doc__
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    forward.__signature__ = _with_first(first, theirs)  # type: ignore[attr-defined]
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), {**names, "forward": forward, "__signature__": theirs, "_unsigned": kind})


def _made(kind: type[Self]) -> Self:
    """An empty one, for copies and pickles."""
    return kind.__new__(kind)


def _with_first(first: inspect.Parameter, signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(parameters=[first, *signature.parameters.values()])


def _unsigned(kind: type[Self]) -> type[Self]:
    """The class as it is imported."""
    return kind.__dict__.get("_unsigned", kind)  # type: ignore[no-any-return]


def _no_weight_decay(theirs: Callable[[], Any], net: Transparent) -> set[str]:
    """timm's `no_weight_decay`: the parameters that are to keep their size, under their names in the net."""
    return {f"model.{name}" for name in theirs()}


def _group_matcher(theirs: Callable[..., Any], net: Transparent, coarse: bool = False) -> Callable[[str], int]:
    """timm's `group_matcher`: the depth of a parameter of the net by its name; heads are as high as the classifier."""
    found = depths(net.model, theirs(coarse=coarse))
    above = max(found.values(), default=0)
    return lambda name: found.get(name.removeprefix("model."), above) if name.startswith("model.") else above


def depths(model: nn.Module, matcher: Any) -> dict[str, int]:
    """By the name of each parameter how deep it lies, from 0, as timm groups them by a model's `group_matcher`."""
    timm = require("timm.models", purpose="layer decay")
    return dict(timm.group_parameters(model, matcher, reverse=True))


_RULES: dict[str, Callable[..., Any]] = {"no_weight_decay": _no_weight_decay, "group_matcher": _group_matcher}
