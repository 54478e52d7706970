"""The architectures that every law is tested on: the smallest member of each kind, at a small input."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from torch import Tensor, nn

from deepsup import Feature, networks

CLASSES = 5


@dataclass
class State:
    """What the blocks of `Structured` pass on."""

    hidden: Tensor
    score: Tensor


class Block(nn.Module):
    """Returns a tuple."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.conv(x))
        return x + y, y.mean((2, 3))


class Packed(nn.Module):
    """Returns a dataclass."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> State:
        y = torch.relu(self.conv(x))
        return State(hidden=x + y, score=y.mean((2, 3)))


class Structured(nn.Module):
    """A model whose layers return tuples and dataclasses, and which returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = Block(8)
        self.drop = nn.Dropout(0.2)
        self.second = Packed(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, _ = self.first(self.stem(x))
        state = self.second(self.drop(x))
        return {"logits": self.fc(state.hidden.mean((2, 3))), "score": state.score}


class Architecture(NamedTuple):
    """How to build the model, the size of its input, and two layers to supervise."""

    build: Callable[[], nn.Module]
    size: int
    at: list[str]
    layouts: tuple[str, str] = ("NCHW", "NCHW")

    def sample(self, batch: int = 4, seed: int = 0) -> Tensor:
        return torch.randn(batch, 3, self.size, self.size, generator=torch.Generator().manual_seed(seed))

    def target(self, batch: int = 4, seed: int = 0) -> Tensor:
        return torch.randint(0, CLASSES, (batch,), generator=torch.Generator().manual_seed(seed))


def _torchvision(name: str, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet announces a change of its initialisation
        return torchvision.models.get_model(name, num_classes=CLASSES, **options)


def _timm(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, num_classes=CLASSES, **options)


tokens = ("NLC", "NLC")
ARCHITECTURES: dict[str, Architecture] = {
    "plain-12": Architecture(partial(networks.build, "deepsup:plain-12", classes=CLASSES), 16, ["relu3", "relu9"]),
    "structured": Architecture(Structured, 16, ["first", "second@hidden"]),
    "resnet18": Architecture(partial(_torchvision, "resnet18"), 32, ["bn1", "layer2.0"]),
    "densenet121": Architecture(partial(_torchvision, "densenet121"), 32, ["features.transition1", "features.norm5"]),
    "mobilenet_v3_small": Architecture(partial(_torchvision, "mobilenet_v3_small"), 32, ["features.3", "60%"]),
    "googlenet": Architecture(
        partial(_torchvision, "googlenet", init_weights=False), 64, ["inception3a", "inception4c"]
    ),
    "vit_tiny": Architecture(partial(_timm, "vit_tiny_patch16_224", img_size=64), 64, ["blocks.3", "blocks.7"], tokens),
    "swin_tiny": Architecture(
        partial(_timm, "swin_tiny_patch4_window7_224", img_size=64), 64, ["layers.0", "layers.2"], ("NHWC", "NHWC")
    ),
    "convnext_atto": Architecture(partial(_timm, "convnext_atto"), 64, ["stages.1", "stages.2"]),
    "efficientnet_b0": Architecture(partial(_timm, "efficientnet_b0"), 32, ["blocks.1", "blocks.3.1"]),
    "mixer": Architecture(partial(_timm, "mixer_s16_224", img_size=64), 64, ["blocks.2", "blocks.5"], tokens),
}


def dropout_head(feature: Feature, classes: int) -> nn.Module:
    """A head that draws random numbers in every forward, to try the isolation of the user's stream."""
    flat = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(feature.shape).numel(), 16), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(*flat, nn.Linear(16, classes))
