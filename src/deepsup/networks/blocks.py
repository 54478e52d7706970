"""What several networks are built of: their counts and depths, how they end, and the weights they begin with."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

import torch
from torch import nn

from deepsup.errors import ConfigError
from deepsup.specs import WHOLE, Limit, is_number

Network = TypeVar("Network", bound=nn.Module)

SHARE = Limit("a number of at least 0 and below 1", lambda v: is_number(v) and 0 <= v < 1)


def check_positive(**counts: int) -> None:
    """Raise ConfigError unless every count is a whole number of at least 1."""
    for name, count in counts.items():
        if not WHOLE.fits(count) or count < 1:
            raise ConfigError(f"{name}={count!r} must be a whole number of at least 1.")


def check_share(**shares: float) -> None:
    """Raise ConfigError unless every share lies in [0, 1), as the rate of a dropout must."""
    for name, share in shares.items():
        if not SHARE.fits(share):
            raise ConfigError(f"{name}={share!r} must be {SHARE.says}.")


def repeats(depth: int, *, step: int, rest: int, network: str) -> int:
    """The n of a network that is `step * n + rest` layers deep.

    Example: `repeats(32, step=6, rest=2, network="resnet-32") == 5`.

    Raises ConfigError for every other depth, and names the nearest ones that exist.
    """
    n, left = divmod(depth - rest, step)
    if n >= 1 and not left:
        return n
    near = [step * m + rest for m in (n, n + 1) if m >= 1] or [step + rest]
    raise ConfigError(
        f"{network!r} cannot be built: its depth is {step}n+{rest} with n of at least 1. "
        f"Closest: {' and '.join(map(str, near))}."
    )


def preactivated(channels: int, classes: int) -> OrderedDict[str, nn.Module]:
    """The end of networks whose blocks begin with normalisation and ReLU, so that the last block's output lacks both."""
    return OrderedDict(
        bn1=nn.BatchNorm2d(channels),
        relu1=nn.ReLU(),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(channels, classes),
    )


@torch.no_grad()
def he_normal(network: Network) -> Network:
    """The network, its convolutions drawn from N(0, 2 / fan_out), He et al. 2015 (arXiv 1502.01852), equation 14; biases 0.

    fan_out counts kernel positions times output channels. Normalisations keep scale 1 and shift 0, linear layers keep
    what PyTorch draws, as in the released training code of ResNet, WRN, DenseNet and DHM for CIFAR.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


@torch.no_grad()
def gaussian(network: Network, *, std: float) -> Network:
    """The network, its convolutions and linear layers drawn from N(0, std²), biases 0: Caffe's "gaussian" filler."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
