"""Plain convolutional networks: no normalisation, no shortcuts, so gradients fade on the way down.

These are the nets in which auxiliary supervision matters most (CNDS, Wang et al. 2015, section 3: deep nets under
PyTorch's or Gaussian default initialisation whose first layers receive next to no gradient).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks.blocks import check_positive
from deepsup.networks.families import family

WIDTHS = (16, 32, 64)


class Plain(nn.Sequential):
    """What `plain` builds: a sequence with a name of its own, so that plans and errors speak of `Plain`."""


@family("plain-N", "plain-12", "plain-13")
def plain(depth: int, *, classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS) -> Plain:
    """A stack of `depth` 3x3 convolutions with ReLU, a global average pool and one linear layer.

    Example: `plain(12, classes=10, in_channels=1)` has 4 convolutions each of 16, 32 and 64 channels.

    Each width is a stage; the first convolution of every stage but the first has stride 2. A depth that the stages
    do not divide gives the extra convolutions to the earliest stages (13 becomes 5, 4, 4). Layers are named conv1,
    relu1, ..., pool, flatten, fc. Input `(N, in_channels, H, W)` of any size, output `(N, classes)`. Initialised as
    PyTorch does by default. Raises ConfigError when there are fewer convolutions than stages or a count is below 1.
    """
    stages = _stages(depth, widths)
    check_positive(classes=classes, in_channels=in_channels)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, number = in_channels, 0
    for stage, (width, convolutions) in enumerate(zip(widths, stages, strict=True)):
        for position in range(convolutions):
            number += 1
            stride = 2 if stage > 0 and position == 0 else 1
            layers[f"conv{number}"] = nn.Conv2d(channels, width, 3, stride=stride, padding=1)
            layers[f"relu{number}"] = nn.ReLU()  # not in place: a tap may read the convolution's own output
            channels = width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes)
    return Plain(layers)


def _stages(depth: int, widths: Sequence[int]) -> list[int]:
    """How many convolutions each stage gets."""
    if isinstance(widths, str) or not widths or any(not isinstance(width, int) or width < 1 for width in widths):
        raise ConfigError(f"widths={widths!r} must be one or more channel counts, such as {list(WIDTHS)}.")
    if depth < len(widths):
        raise ConfigError(
            f"a plain network of {depth} convolutions cannot fill {len(widths)} stages (widths={list(widths)}). "
            f"Ask for at least {len(widths)} convolutions, or for fewer widths."
        )
    each, extra = divmod(depth, len(widths))
    return [each + 1 if stage < extra else each for stage in range(len(widths))]
