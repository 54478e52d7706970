"""Activations by name with their options: `relu`, `prelu(shared=True)`, `leaky_relu(slope=0.01)`, `rrelu`.

Each is a function of the number of channels; what a text may give are its keyword-only parameters. None works in place,
because a tap may read the layer before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks.blocks import SHARE
from deepsup.specs import FLAG, Registry

ACTIVATIONS = Registry[Callable[..., nn.Module]]("activation", ConfigError)


def activation(text: str, channels: int) -> nn.Module:
    """The activation that `text` names, for maps of `channels` channels.

    Example: `activation("leaky_relu(slope=0.2)", 64)`. Raises ConfigError for another name, option or value.
    """
    name, options = ACTIVATIONS.read(text)
    return ACTIVATIONS[name](channels, **options)


@ACTIVATIONS.register
def relu(channels: int) -> nn.Module:
    """max(x, 0)."""
    return nn.ReLU()


@ACTIVATIONS.register
def leaky_relu(channels: int, *, slope: Annotated[float, SHARE] = 0.01) -> nn.Module:
    """x, or `slope` times x below 0: Maas et al., 2013, who take 0.01."""
    return nn.LeakyReLU(slope)


@ACTIVATIONS.register
def prelu(channels: int, *, slope: Annotated[float, SHARE] = 0.25, shared: Annotated[bool, FLAG] = False) -> nn.Module:
    """LeakyReLU that learns its slope, which begins at `slope`: one a channel, or one a layer if `shared`.

    He et al., 2015 (arXiv 1502.01852), have both. They use no weight decay here, since it draws the slopes to 0 and so
    back to ReLU; give `nn.PReLU` parameters an optimiser group of their own with `weight_decay=0`.
    """
    return nn.PReLU(1 if shared else channels, init=slope)


@ACTIVATIONS.register
def rrelu(
    channels: int, *, lower: Annotated[float, SHARE] = 1 / 8, upper: Annotated[float, SHARE] = 1 / 3
) -> nn.Module:
    """LeakyReLU whose slope is drawn anew from U(`lower`, `upper`) for every value in training; after that their mean.

    As PyTorch has it, which evaluates with (1/8 + 1/3) / 2 = 0.229. The divisor was drawn first, from U(3, 8), with
    2 / (3 + 8) = 0.182 for evaluation (Xu et al., 2015, arXiv 1505.00853; from memory). No normal distribution takes part.
    """
    if lower > upper:
        raise ConfigError(f"rrelu draws slopes from {lower} to {upper}: lower must not be above upper.")
    return nn.RReLU(lower, upper)
