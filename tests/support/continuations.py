"""Networks of the zoos, and what follows one of their layers, once more."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from deepsup import networks
from deepsup.features import Feature
from deepsup.heads.continuation import continuation
from deepsup.layers.dry_run import Trace, trace

CLASSES = 7


def tv(name: str, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet announces a change of its initialisation
        return torchvision.models.get_model(name, num_classes=CLASSES, **options)


def zoo(name: str) -> nn.Module:
    return timm.create_model(name, num_classes=CLASSES)


def own(name: str) -> nn.Module:
    return networks.build(f"deepsup:{name}", classes=CLASSES)


def given(model: nn.Module, layer: str, size: int) -> Feature:
    """What a layer gives out for images of that size, channels first; nothing is left behind in the model."""
    found: list[Tensor] = []
    twin = copy.deepcopy(model)
    twin.get_submodule(layer).register_forward_hook(lambda m, a, out: found.append(out))
    with torch.no_grad():
        twin(torch.zeros(2, 3, size, size))
    return Feature(tuple(found[0].shape[1:]), "NLC" if found[0].ndim == 3 else "NCHW")


def repeat(model: nn.Module, layer: str, size: int = 32, **options: Any) -> nn.Module:
    return continuation(given(model, layer, size), CLASSES, model=model, layer=layer, **options)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def resnet18() -> nn.Module:
    return tv("resnet18")


class Head(nn.Module):
    """Two linear layers with something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 64)
        self.two = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        x = self.one(x)
        return self.two(self.between(x) if mask is None else x * mask)

    def between(self, x: Tensor) -> Tensor:
        return x


def after_one(model: nn.Module) -> nn.Module:
    return continuation(Feature((64,), "NC"), CLASSES, model=model, layer="one")


@cache  # several tables ask for one network
def dry(spec: str, size: int) -> tuple[nn.Module, Trace]:
    """A network without memory and its dry run."""
    source, _, name = spec.partition(":")
    options: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if source == "torchvision":
            model = torchvision.models.get_model(name, num_classes=10, **options)
        elif source == "timm":
            model = timm.create_model(name, num_classes=10)
        else:
            model = networks.build(spec, classes=10)
        return model, trace(model, torch.zeros(2, 3, size, size))
