"""Networks that lend their last layers to a branch, and the heads that borrow them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import deepsup as ds
from tests.support.small_nets import CLASSES


class Tokens(nn.Module):
    """Embedding, three blocks of one width, a norm, pooling, and the embedding again as classifier."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.blocks = nn.Sequential(*(Step(width) for _ in range(3)))
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.norm(self.blocks(self.stem(x)))))


class Step(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x))


def of_the_model(feature: ds.Feature, classes: int, *, model: Tokens) -> nn.Module:
    """A new layer, then the model's own norm and classifier."""
    return nn.Sequential(nn.Linear(feature.channels, feature.channels), model.norm, model.fc)


def with_the_weight(feature: ds.Feature, classes: int, *, model: Tokens) -> nn.Module:
    """The model's weight in a layer of its own."""
    head = nn.Linear(feature.channels, classes)
    head.weight = model.fc.weight
    return head


def vectors(batch: int = 4) -> Tensor:
    return torch.randn(batch, 6)
