"""How the networks of this folder end."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def preactivated(channels: int, classes: int) -> OrderedDict[str, nn.Module]:
    """The end of networks whose blocks begin with normalisation and ReLU, so that the last block's output lacks both."""
    return OrderedDict(
        bn1=nn.BatchNorm2d(channels),
        relu1=nn.ReLU(),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(channels, classes),
    )
