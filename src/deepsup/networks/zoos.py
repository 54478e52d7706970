"""Networks of timm, torchvision and segmentation-models-pytorch, and what is said when they have none such."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks.families import missing_space
from deepsup.specs import closest, require

_TORCHVISION = "torchvision.models.list_models()"


def build_timm(name: str, *, classes: int, in_channels: int, size: int | None, options: dict[str, Any]) -> nn.Module:
    timm, config = timm_model(name)
    if "in_chans" in options:
        raise ConfigError(f"the channel count of 'timm:{name}' is {in_channels}, from the data; take in_chans out.")
    arguments = {"pretrained": False, "num_classes": classes, "in_chans": in_channels}
    if size is not None and getattr(config, "fixed_input_size", False):
        arguments["img_size"] = size  # such networks refuse every other size; the options may still overrule
    arguments.update(options)
    model = call(partial(timm.create_model, name), f"timm:{name}", arguments)
    return checked(model, f"timm:{name}")


def timm_model(name: str) -> tuple[Any, Any]:
    """timm, and its settings of the model that it calls so. Raises ConfigError where it has none."""
    timm = require("timm", purpose=f"'timm:{name}'")
    architecture = name.partition(".")[0]  # what follows the dot names a set of trained weights
    if not timm.is_model(architecture):
        raise ConfigError(unknown(name, "timm", timm.list_models(), listing="timm.list_models()"))
    return timm, timm.models.get_pretrained_cfg(architecture)


def build_torchvision(
    name: str, *, classes: int, in_channels: int, size: int | None, options: dict[str, Any]
) -> nn.Module:
    models = require("torchvision", purpose=f"'torchvision:{name}'").models
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
    model = checked(call(builder, f"torchvision:{name}", arguments), f"torchvision:{name}")
    if weights is not None:
        _reclassify(model, name, trained=len(arguments["weights"].meta["categories"]), classes=classes)
    return model


def build_smp(name: str, *, classes: int, in_channels: int, size: int | None, options: dict[str, Any]) -> nn.Module:
    """`smp.NAME(encoder_name="resnet34", encoder_weights=None, in_channels=..., classes=..., **options)`."""
    smp = require("segmentation_models_pytorch", purpose=f"'smp:{name}'", install="segmentation-models-pytorch")
    members = [getattr(smp, member) for member in smp.__all__]
    there = {m.__name__.lower(): m for m in members if isinstance(m, type) and issubclass(m, nn.Module)}
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
    return checked(call(make, f"smp:{name}", arguments), f"smp:{name}")


ZOOS: dict[str, Callable[..., nn.Module]] = {"timm": build_timm, "torchvision": build_torchvision, "smp": build_smp}


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


def checked(model: object, spec: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{spec!r} returned {type(model).__name__}, not an nn.Module.")
    return model


def unknown(name: str, package: str, known: Iterable[str], *, listing: str) -> str:
    """What an error says about a model that a package does not have; the Python expression `listing` gives all."""
    command = f'python -c "import {package}; print({listing})"'
    return f"{package} has no model called {name!r}.{closest(name, known, most=3, cutoff=0.5)} List all with: {command}"


def call(create: Callable[..., Any], spec: str, arguments: Mapping[str, Any]) -> Any:
    """Run a library's constructor; what it refuses becomes a ConfigError that shows what it was given."""
    try:
        return create(**arguments)
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError, OSError, NotImplementedError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise ConfigError(f"{spec!r} could not be built with {given}: {error}") from error
