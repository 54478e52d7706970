"""The architectures that every law is tested on: of each kind a member of few blocks and channels, at a small input.

They are built by the zoos' own code, so that every layer is of the kind that it is in the large ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn
from torchvision.models import mobilenetv3
from torchvision.models.googlenet import Inception, InceptionAux

from deepsup import Feature, networks

CLASSES = 5
tv = torchvision.models


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


def _googlenet() -> nn.Module:
    """GoogLeNet with both auxiliary classifiers and two of its nine inception blocks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet announces a change of its initialisation
        model = tv.googlenet(num_classes=CLASSES, init_weights=False)
    for name in ("3b", "4a", "4b", "4c", "4e", "5a", "5b"):
        setattr(model, f"inception{name}", nn.Identity())
    model.aux1 = InceptionAux(256, CLASSES)  # it and the next block read what 3a gives
    model.inception4d = Inception(256, 112, 144, 288, 32, 64, 64)
    model.fc = nn.Linear(528, CLASSES)
    return model


def _mobilenet_v3() -> nn.Module:
    """Every kind of block of MobileNetV3: with and without squeeze-and-excitation and expansion, ReLU and hard swish."""
    block = mobilenetv3.InvertedResidualConfig
    blocks = [
        block(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        block(16, 3, 36, 24, False, "RE", 2, 1, 1.0),
        block(24, 3, 44, 24, False, "RE", 1, 1, 1.0),
        block(24, 5, 48, 32, True, "HS", 2, 1, 1.0),
    ]
    return mobilenetv3.MobileNetV3(blocks, last_channel=64, num_classes=CLASSES)


def _timm(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, num_classes=CLASSES, **options)


resnet = partial(tv.ResNet, tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)
densenet = partial(tv.DenseNet, 8, (2, 2), 16, num_classes=CLASSES)
vit = partial(_timm, "vit_tiny_patch16_224", img_size=64, depth=3, embed_dim=48)
swin = partial(_timm, "swin_tiny_patch4_window7_224", img_size=64, depths=(1, 2), embed_dim=24, num_heads=(1, 2))
convnext = partial(_timm, "convnext_atto", depths=(1, 1, 1, 1), dims=(16, 24, 32, 40))
efficientnet = partial(_timm, "test_efficientnet")
mixer = partial(MlpMixer, CLASSES, 64, num_blocks=3, embed_dim=64)
tokens = ("NLC", "NLC")

ARCHITECTURES: dict[str, Architecture] = {
    "plain-12": Architecture(partial(networks.build, "deepsup:plain-12", classes=CLASSES), 16, ["relu3", "relu9"]),
    "structured": Architecture(Structured, 16, ["first", "second@hidden"]),
    "resnet": Architecture(resnet, 32, ["bn1", "layer2.0"]),
    "densenet": Architecture(densenet, 32, ["features.transition1", "features.norm5"]),
    "mobilenet_v3": Architecture(_mobilenet_v3, 32, ["features.2", "60%"]),
    "googlenet": Architecture(_googlenet, 64, ["inception3a", "inception4d"]),
    "vit": Architecture(vit, 64, ["blocks.0", "blocks.1"], tokens),
    "swin": Architecture(swin, 64, ["layers.0", "layers.1"], ("NHWC", "NHWC")),
    "convnext": Architecture(convnext, 64, ["stages.1", "stages.2"]),
    "efficientnet": Architecture(efficientnet, 32, ["blocks.1", "blocks.3.0"]),
    "mixer": Architecture(mixer, 64, ["blocks.0", "blocks.1"], tokens),
}


def dropout_head(feature: Feature, classes: int) -> nn.Module:
    """A head that draws random numbers in every forward, to try the isolation of the user's stream."""
    flat = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(feature.shape).numel(), 16), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(*flat, nn.Linear(16, classes))
