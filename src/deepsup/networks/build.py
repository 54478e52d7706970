"""Where a network comes from: `source:name` to an `nn.Module`.

deepsup:plain-12            our own networks: plain-N, resnet-N, ..., pspnet, unet, ... (families.py)
timm:resnet18               anything timm can create, untrained unless options say pretrained=True
torchvision:resnet18        anything torchvision can create, untrained unless options name weights
smp:Unet                    a decoder of segmentation-models-pytorch, by default on an untrained ResNet-34
package.module:factory      a callable that returns an nn.Module
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepsup.errors import ConfigError, DeepsupError
from deepsup.networks.families import build_own, find, listed
from deepsup.networks.zoos import ZOOS, checked
from deepsup.specs import closest

_FORMS = "deepsup:resnet-32, timm:NAME, torchvision:NAME, smp:NAME or package.module:factory"


def names() -> tuple[str, ...]:
    """Our own networks, ready for `build`, in the sizes that the papers trained; other numbers work as well.

    Example: `"deepsup:plain-12" in names()`.
    """
    return tuple(f"deepsup:{name}" for name in listed())


def reads(spec: str) -> str | None:
    """What the network that `spec` names reads: "images" or "tokens"; None of a factory, or where there is no such network."""
    source, _, name = spec.partition(":")
    if source == "deepsup":
        found = find(name)
        return found[0].reads if found else None
    return "images" if source in ZOOS else None


def sample(spec: str, *, channels: int, size: int) -> Tensor:
    """What can be shown to the network that `spec` names: two images (2, channels, size, size), or tokens (2, size)."""
    try:
        return tokens(channels, size) if reads(spec) == "tokens" else torch.randn(2, channels, size, size)
    except (RuntimeError, MemoryError, TypeError) as error:  # more than there is memory for, or less than nothing
        raise ConfigError(
            f"an input of {channels} channels and size {size} cannot be made: {str(error)[:200]}. Choose others."
        ) from None


def tokens(symbols: int, length: int) -> Tensor:
    """Two sequences (2, length) of so many symbols in turn, the same always."""
    return torch.arange(2 * length).remainder(symbols).view(2, length)


def build(
    spec: str,
    *,
    classes: int,
    in_channels: int = 3,
    size: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the network that `spec` names, for `classes` classes.

    Example: `build("deepsup:plain-12", classes=10, in_channels=1)`.

    `size` is the side of the square input; it matters only to networks that are built for one size. `options` go to
    the network's own constructor. Weights are random unless the options ask for trained ones (timm: pretrained=True,
    torchvision: weights="DEFAULT", after which the classifier is replaced when its class count differs, smp:
    encoder_weights="imagenet"). Networks for segmentation give scores (N, classes, h, w), torchvision's in a dict. Raises
    ConfigError for a spec or an option that does not work, MissingPackageError for a package that is not installed.
    """
    options = dict(options or {})
    source, colon, name = spec.partition(":")
    if not colon or not source or not name:
        guess = f" Perhaps deepsup:{spec}?" if find(spec) else ""
        raise ConfigError(f"model {spec!r} does not say where it comes from. Write {_FORMS}.{guess}")
    if "num_classes" in options or "classes" in options:
        raise ConfigError(f"the class count of {spec!r} is {classes}, from the data; take it out of the model options.")
    make = {"deepsup": build_own, **ZOOS}.get(source)
    known = {"num_classes": classes, "in_channels": in_channels, "size": size}
    if make is None:
        return _build_imported(spec, known=known, options=options)
    try:
        return make(name, classes=classes, in_channels=in_channels, size=size, options=options)
    except DeepsupError:
        raise
    except Exception as error:  # whatever a network makes of numbers or options that are out of its range
        asked = {name: value for name, value in (known | options).items() if value is not None}
        raise ConfigError(
            f"{spec!r} cannot be built with {asked!r:.300}: {type(error).__name__}: {str(error)[:300]}. Choose other sizes or "
            "options."
        ) from error


def _build_imported(spec: str, *, known: Mapping[str, Any], options: dict[str, Any]) -> nn.Module:
    """Call `package.module:factory` with what its signature takes of the known facts, and with all options.

    A module that is nowhere else may lie in the current folder, which is looked into for this name and at this moment alone.
    """
    with _current_folder():
        return _called(spec, _imported(spec), known=known, options=options)


def _called(spec: str, factory: Callable[..., Any], *, known: Mapping[str, Any], options: dict[str, Any]) -> nn.Module:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some builtins have none
        raise ConfigError(f"{spec!r} has no readable signature; wrap it in a Python function.") from None
    takes = {name for name, parameter in signature.parameters.items() if parameter.kind not in _NOT_BY_NAME}
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        takes.add("num_classes")  # the one name that nearly every factory passes on; more would be guessing
    arguments = {name: value for name, value in known.items() if name in takes} | options
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"{spec!r} has the signature {signature}, called with {arguments}: {error}. {_CONVENTION}"
        ) from None
    try:
        return checked(factory(**arguments), spec)
    except TypeError as error:
        raise ConfigError(f"{spec!r} failed, called with {arguments}: {error}. {_CONVENTION}") from error


_CONVENTION = (
    "A factory is called with those of num_classes, in_channels and size that its signature names, and with "
    "model_options; it returns an nn.Module."
)


_NOT_BY_NAME = {
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
}


@contextmanager
def _current_folder() -> Iterator[None]:
    """The current folder as the last place where modules are looked for, so that nothing in it stands in for a package."""
    here = os.getcwd()
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _is_factory(target: object) -> bool:
    """A class of networks, or a function that somebody wrote in Python to make one; none of Python's own."""
    if isinstance(target, functools.partial):
        return _is_factory(target.func)
    if isinstance(target, type):
        return issubclass(target, nn.Module)
    function = inspect.unwrap(target) if callable(target) else target
    return (inspect.isfunction(function) or inspect.ismethod(function)) and not _is_pythons(function.__module__)


def _is_pythons(module: str | None) -> bool:
    return (module or "").partition(".")[0] in sys.stdlib_module_names


def _imported(spec: str) -> Callable[..., Any]:
    path, _, attribute = spec.partition(":")
    if _is_pythons(path):
        raise ConfigError(
            f"model {spec!r}: {path} is a module of Python itself, which makes no networks. Write {_FORMS}."
        )
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not, and its own message says it best
        raise ConfigError(
            f"model {spec!r}: no module {error.name!r} can be imported."
            f"{closest(path, ('deepsup', *ZOOS), most=3, cutoff=0.5)} Install it, or put its folder on PYTHONPATH. "
            f"Other forms: {_FORMS}."
        ) from None
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [name for name in vars(target) if not name.startswith("_")]
            raise ConfigError(f"model {spec!r}: {path!r} has no {part!r}.{closest(part, public, most=3, cutoff=0.5)}")
        target = getattr(target, part)
    if not _is_factory(target):
        raise ConfigError(
            f"model {spec!r}: {attribute!r} is neither a class of nn.Modules nor a function that makes one: {target!r:.200}."
        )
    return target  # type: ignore[no-any-return]
