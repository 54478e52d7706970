"""Where a network comes from: `source:name` to an `nn.Module`.

deepsup:plain-12            our own networks: plain-N, resnet-N, ..., pspnet, unet, ... (published.py)
timm:resnet18               anything timm can create, untrained unless options say pretrained=True
torchvision:resnet18        anything torchvision can create, untrained unless options name weights
smp:Unet                    a decoder of segmentation-models-pytorch, by default on an untrained ResNet-34
package.module:factory      a callable that returns an nn.Module
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks.families import LISTED, build_published, find
from deepsup.networks.packages import call, closest, missing_space, require, unknown

_FORMS = "deepsup:resnet-32, timm:NAME, torchvision:NAME, smp:NAME or package.module:factory"
_TORCHVISION = "torchvision.models.list_models()"


def names() -> tuple[str, ...]:
    """Our own networks, ready for `build`, in the sizes that the papers trained; other numbers work as well.

    Example: `names()[0] == "deepsup:plain-12"`.
    """
    return tuple(f"deepsup:{name}" for name in LISTED)


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
        raise ConfigError(f"model {spec!r} does not say where it comes from. Write {_FORMS}.{_guess(spec)}")
    if "num_classes" in options or "classes" in options:
        raise ConfigError(f"the class count of {spec!r} is {classes}, from the data; take it out of the model options.")
    if source == "deepsup":
        return build_published(name, classes=classes, in_channels=in_channels, size=size, options=options)
    if source == "timm":
        return _build_timm(name, classes=classes, in_channels=in_channels, size=size, options=options)
    if source == "torchvision":
        return _build_torchvision(name, classes=classes, in_channels=in_channels, size=size, options=options)
    if source == "smp":
        return _build_smp(name, classes=classes, in_channels=in_channels, options=options)
    known = {"num_classes": classes, "in_channels": in_channels, "size": size}
    return _build_imported(spec, known=known, options=options)


def _build_timm(name: str, *, classes: int, in_channels: int, size: int | None, options: dict[str, Any]) -> nn.Module:
    timm = require("timm")
    architecture = name.partition(".")[0]  # what follows the dot names a set of trained weights
    if not timm.is_model(architecture):
        raise ConfigError(unknown(name, "timm", timm.list_models(), listing="timm.list_models()"))
    if "in_chans" in options:
        raise ConfigError(f"the channel count of 'timm:{name}' is {in_channels}, from the data; take in_chans out.")
    arguments = {"pretrained": False, "num_classes": classes, "in_chans": in_channels}
    config = timm.models.get_pretrained_cfg(architecture)
    if size is not None and getattr(config, "fixed_input_size", False):
        arguments["img_size"] = size  # such networks refuse every other size; the options may still overrule
    arguments.update(options)
    model = call(partial(timm.create_model, name), f"timm:{name}", arguments)
    return _checked(model, f"timm:{name}")


def _build_torchvision(
    name: str, *, classes: int, in_channels: int, size: int | None, options: dict[str, Any]
) -> nn.Module:
    models = require("torchvision").models
    if name.lower() not in models.list_models():
        raise ConfigError(unknown(name, "torchvision", models.list_models(), listing=_TORCHVISION))
    if in_channels != 3:
        raise ConfigError(
            f"'torchvision:{name}' reads 3 channels, the data has {in_channels}. timm builds networks for any number "
            f"of channels (timm:resnet18, say), and so do ours (deepsup:plain-12)."
        )
    weights = options.pop("weights", None)
    arguments: dict[str, Any] = {"weights": None}
    builder = models.get_model_builder(name)
    if "weights_backbone" in inspect.signature(builder).parameters:
        arguments["weights_backbone"] = None  # torchvision's default would download a trained backbone
    if weights is None:
        arguments["num_classes"] = classes
        if name.lower() in {"googlenet", "inception_v3"}:
            arguments["init_weights"] = True  # torchvision's present default, which warns unless it is said aloud
        if name.lower().startswith("vit_") and size is not None:
            arguments["image_size"] = size
    else:
        arguments["weights"] = _weights(models, name, weights)
    arguments.update(options)
    model = _checked(call(builder, f"torchvision:{name}", arguments), f"torchvision:{name}")
    if weights is not None:
        _reclassify(model, name, trained=len(arguments["weights"].meta["categories"]), classes=classes)
    return model


def _build_smp(name: str, *, classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    """`smp.NAME(encoder_name="resnet34", encoder_weights=None, in_channels=..., classes=..., **options)`."""
    smp = require("segmentation_models_pytorch", install="segmentation-models-pytorch")
    there = {model.lower(): getattr(smp, model) for model in smp.__all__ if _is_smp_model(getattr(smp, model))}
    if name.lower() not in there:
        listing = "segmentation_models_pytorch.MODEL_ARCHITECTURES_MAPPING.keys()"
        known = [model.__name__ for model in there.values()]
        raise ConfigError(unknown(name, "segmentation_models_pytorch", known, listing=listing))
    if "in_channels" in options:
        raise ConfigError(f"the channel count of 'smp:{name}' is {in_channels}, from the data; take in_channels out.")
    make = there[name.lower()]
    takes = [option for option in inspect.signature(make).parameters if option != "kwargs"]
    strange = sorted(options.keys() - set(takes))
    if strange and not str(options.get("encoder_name")).startswith("tu-"):  # of timm; all others are deaf to the rest
        hint = missing_space(strange)
        raise ConfigError(f"'smp:{name}' has no option {', '.join(strange)}. It takes: {', '.join(takes)}.{hint}")
    arguments = {"encoder_weights": None, "in_channels": in_channels, "classes": classes, **options}
    return _checked(call(make, f"smp:{name}", arguments), f"smp:{name}")


def _is_smp_model(member: object) -> bool:
    return isinstance(member, type) and issubclass(member, nn.Module)


def _weights(models: Any, name: str, asked: object) -> Any:
    """The member of torchvision's weights enumeration that was asked for by name."""
    members = dict(models.get_model_weights(name).__members__)
    member = members.get(asked.rpartition(".")[2]) if isinstance(asked, str) else None
    if member is None or "categories" not in member.meta:
        raise ConfigError(f"'torchvision:{name}' has no weights {asked!r}. It has: {', '.join(members) or 'none'}.")
    return member


def _reclassify(model: nn.Module, name: str, *, trained: int, classes: int) -> None:
    """Replace every classifier that has the trained class count by a fresh one; nothing to do when counts agree."""
    if trained == classes:
        return
    found = 0
    for path, layer in list(model.named_modules()):
        fresh: nn.Module
        if isinstance(layer, nn.Linear) and layer.out_features == trained:
            fresh = nn.Linear(layer.in_features, classes, bias=layer.bias is not None)
        elif isinstance(layer, nn.Conv2d) and layer.out_channels == trained and layer.kernel_size == (1, 1):
            fresh = nn.Conv2d(layer.in_channels, classes, 1, bias=layer.bias is not None)
        else:
            continue
        parent, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(parent), attribute, fresh)
        found += 1
    if not found:
        raise ConfigError(
            f"the trained 'torchvision:{name}' tells {trained} classes apart, {classes} are wanted, and no layer with "
            f"{trained} outputs was found to replace. Write a factory that loads it and changes its classifier, and "
            f"name that factory: package.module:factory."
        )


def _build_imported(spec: str, *, known: Mapping[str, Any], options: dict[str, Any]) -> nn.Module:
    """Call `package.module:factory` with what its signature takes of the known facts, and with all options."""
    factory = _imported(spec)
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
        return _checked(factory(**arguments), spec)
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


def _imported(spec: str) -> Callable[..., Any]:
    path, _, attribute = spec.partition(":")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not, and its own message says it best
        raise ConfigError(
            f"model {spec!r}: no module {error.name!r} can be imported."
            f"{closest(path, ('deepsup', 'timm', 'torchvision'))} Install it, or put its folder on PYTHONPATH "
            f"(PYTHONPATH=. for this one). Other forms: {_FORMS}."
        ) from None
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [name for name in vars(target) if not name.startswith("_")]
            raise ConfigError(f"model {spec!r}: {path!r} has no {part!r}.{closest(part, public)}")
        target = getattr(target, part)
    if not callable(target):
        raise ConfigError(f"model {spec!r}: {attribute!r} is no function and no class: {type(target).__name__}.")
    return target  # type: ignore[no-any-return]


def _checked(model: object, spec: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{spec!r} returned {type(model).__name__}, not an nn.Module.")
    return model


def _guess(spec: str) -> str:
    return f" Perhaps deepsup:{spec}?" if find(spec) else ""
