"""Activations by name with their options: `relu`, `prelu(shared=True)`, `leaky_relu(slope=0.01)`, `rrelu`.

Each is a function of the number of channels; what a text may give are its keyword-only parameters. None works in place,
because a tap may read the layer before it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from deepsup.errors import ConfigError
from deepsup.specs import read


def activation(text: str, channels: int) -> nn.Module:
    """The activation that `text` names, for maps of `channels` channels.

    Example: `activation("leaky_relu(slope=0.2)", 64)`. Raises ConfigError for another name, option or value.
    """
    name, options = read(text, ACTIVATIONS, "activation", ConfigError)
    return ACTIVATIONS[name](channels, **options)


def relu(channels: int) -> nn.Module:
    """max(x, 0)."""
    return nn.ReLU()


def leaky_relu(channels: int, *, slope: float = 0.01) -> nn.Module:
    """x, or `slope` times x below 0: Maas et al., 2013, who take 0.01."""
    _check_slopes(slope=slope)
    return nn.LeakyReLU(slope)


def prelu(channels: int, *, slope: float = 0.25, shared: bool = False) -> nn.Module:
    """LeakyReLU that learns its slope, which begins at `slope`: one a channel, or one a layer if `shared`.

    He et al., 2015 (arXiv 1502.01852), have both. They use no weight decay here, since it draws the slopes to 0 and so
    back to ReLU; give `nn.PReLU` parameters an optimiser group of their own with `weight_decay=0`.
    """
    _check_slopes(slope=slope)
    return nn.PReLU(1 if shared else channels, init=slope)


def rrelu(channels: int, *, lower: float = 1 / 8, upper: float = 1 / 3) -> nn.Module:
    """LeakyReLU whose slope is drawn anew from U(`lower`, `upper`) for every value in training; after that their mean.

    As PyTorch has it, which evaluates with (1/8 + 1/3) / 2 = 0.229. The divisor was drawn first, from U(3, 8), with
    2 / (3 + 8) = 0.182 for evaluation (Xu et al., 2015, arXiv 1505.00853; from memory). No normal distribution takes part.
    """
    _check_slopes(lower=lower, upper=upper)
    if lower > upper:
        raise ConfigError(f"rrelu draws slopes from {lower} to {upper}: lower must not be above upper.")
    return nn.RReLU(lower, upper)


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": relu,
    "leaky_relu": leaky_relu,
    "prelu": prelu,
    "rrelu": rrelu,
}


def _check_slopes(**slopes: float) -> None:
    for name, slope in slopes.items():
        if isinstance(slope, bool) or not isinstance(slope, (int, float)) or not 0 <= slope < 1:
            raise ConfigError(f"{name}={slope!r} must be a number of at least 0 and below 1.")
