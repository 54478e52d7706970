"""One level of an encoder-decoder: its convolutions, and the way up to it from the level below."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup.errors import ConfigError
from deepsup.networks.activations import activation
from deepsup.networks.blocks import check_positive, check_share

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(math.gcd(8, width), width),  # 8 groups, or fewer that divide the width
    "instance": lambda width: nn.InstanceNorm2d(width, affine=True),
}
UPSAMPLES = ("nearest", "bilinear", "transpose")


@final
@dataclass(frozen=True)
class Style:
    """What all levels of one network have in common; raises ConfigError for what there is not."""

    norm: str | None
    dropout: float
    activation: str
    upsample: str

    def __post_init__(self) -> None:
        if self.norm is not None and self.norm not in NORMS:
            raise ConfigError(f"no norm {self.norm!r}. There are: {', '.join(NORMS)}, or None.")
        if self.upsample not in UPSAMPLES:
            raise ConfigError(f"no upsample {self.upsample!r}. There are: {', '.join(UPSAMPLES)}.")
        check_share(dropout=self.dropout)
        activation(self.activation, 1)


def check_widths(widths: Sequence[int], *, least: int = 2, most: int = 10) -> None:
    """Raise ConfigError unless `widths` are whole numbers, from `least` to `most` of them."""
    if not isinstance(widths, (list, tuple)) or not least <= len(widths) <= most:
        raise ConfigError(f"widths={widths!r} must name the channels of {least} to {most} levels, as in (32, 64, 128).")
    check_positive(**{f"width {place}": width for place, width in enumerate(widths, 1)})


def convolutions(channels: int, width: int, style: Style, *, rates: Sequence[int] = (1, 1)) -> nn.Sequential:
    """3x3 convolutions, one a dilation rate, that keep the map's size: (N, channels, H, W) to (N, width, H, W).

    Each is followed by its normalisation and activation (conv1, norm1, act1, conv2, ...), and all but the last by
    dropout of single values (dropout1, ...). A normalisation brings its own shift, so the convolution has none then.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for place, rate in enumerate(rates, 1):
        bias = style.norm is None
        layers[f"conv{place}"] = nn.Conv2d(channels, width, 3, padding=rate, dilation=rate, bias=bias)
        if style.norm is not None:
            layers[f"norm{place}"] = NORMS[style.norm](width)
        layers[f"act{place}"] = activation(style.activation, width)
        if style.dropout and place < len(rates):
            layers[f"dropout{place}"] = nn.Dropout(style.dropout)
        channels = width
    return nn.Sequential(layers)


@final
class Up(nn.Module):
    """The map of the level below, enlarged, then the maps of this level beside it, then convolutions.

    The way down halves a side and rounds it, down or up. Here it comes back by an exact doubling, of which the last row
    is repeated or cut off where that was odd: so images of any size pass, and no map is shifted against another.
    `transpose` enlarges by a convolution of its own, to `width` channels, whose kernel is its stride.
    """

    def __init__(
        self, below: int, beside: int, width: int, style: Style, *, rates: Sequence[int] = (1, 1), factor: int = 2
    ) -> None:
        super().__init__()
        transposed = style.upsample == "transpose"
        self.joins = beside > 0
        self.enlarge: nn.Module
        if transposed:
            self.enlarge = nn.ConvTranspose2d(below, width, factor, stride=factor)
        elif style.upsample == "bilinear":
            self.enlarge = nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
        else:
            self.enlarge = nn.Upsample(scale_factor=factor, mode=style.upsample)
        self.convs = convolutions((width if transposed else below) + beside, width, style, rates=rates)

    def forward(self, x: Tensor, like: Tensor, *more: Tensor) -> Tensor:
        """(N, below, h, w) and maps (N, c, H, W) of `beside` channels in all to (N, width, H, W).

        H, W are those of `like`, which gives nothing but its size where nothing stands beside.
        """
        x = _fitted(self.enlarge(x), like)
        return self.convs(torch.cat((x, like, *more), 1) if self.joins else x)  # type: ignore[no-any-return]


def _fitted(x: Tensor, like: Tensor) -> Tensor:
    """Cut off, or repeat, last rows and columns; no branch, so that every size is one graph."""
    height, width = like.shape[-2], like.shape[-1]
    x = x[..., :height, :width]
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), mode="replicate")


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / fan_in), He et al. 2015 (arXiv 1502.01852), equation 10; biases are 0.

    fan_in counts what one output value adds up, so that maps keep their variance on the way forward, also where a wide
    concatenation meets few classes. Slopes below 0 of 1/3 and less would ask for a tenth less: they share this. A
    transposed convolution whose kernel is its stride adds up one value a channel and feeds no activation: 1 / channels.
    Normalisations keep scale 1 and shift 0.
    """
    for layer in network.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
