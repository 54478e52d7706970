"""Wide residual networks: Zagoruyko and Komodakis, BMVC 2016 (arXiv 1605.07146)."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

from torch import Tensor, nn

from deepsup.networks.blocks import check_positive, check_share, he_normal, preactivated, repeats
from deepsup.networks.families import family

STEM = 16
WIDTHS = (16, 32, 64)


@final
class WideBlock(nn.Module):
    """Normalise and activate, then convolve, twice; dropout between the convolutions (their figure 1d).

    Where the shape changes, the shortcut is a 1x1 convolution of the input as it was normalised and activated, as in
    the authors' code; elsewhere it is the raw input.
    """

    def __init__(self, channels: int, width: int, *, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same = stride == 1 and channels == width
        self.shortcut = None if same else nn.Conv2d(channels, width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (N, channels, H, W) to (N, width, h, w)
        active = self.relu1(self.bn1(x))
        residual = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(active)))))
        past = x if self.shortcut is None else self.shortcut(active)
        return residual + past  # type: ignore[no-any-return]


@final
class WideResNet(nn.Sequential):
    """What `wrn` builds: the layers run in the order of their names."""


@family("wrn-N-K", "wrn-16-8", "wrn-28-10", "wrn-40-4")
def wrn(depth: int, widen: int, *, classes: int, in_channels: int = 3, dropout: float = 0.0) -> WideResNet:
    """WRN-`depth`-`widen`: `depth` = 6n+4 layers, three stages of n blocks, 16, 32 and 64 times `widen` channels wide.

    Example: `wrn(28, 10, classes=100, dropout=0.3)` is the network of their best results.

    Layers are named conv1, layer1, layer2, layer3, bn1, relu1, avgpool, flatten, fc; each layerN is a sequence of
    blocks, and the first block of layer2 and layer3 has stride 2. Input `(N, in_channels, H, W)` of any size (32 in the
    paper), output `(N, classes)`. `dropout` in [0, 1) is 0 by default and 0.3 in the paper's runs with dropout on CIFAR.
    Initialised by `he_normal`. Raises ConfigError for another depth, widening factor or dropout.
    """
    n = repeats(depth, step=6, rest=4, network=f"wrn-{depth}-{widen}")
    check_positive(widen=widen, classes=classes, in_channels=in_channels)
    check_share(dropout=dropout)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=nn.Conv2d(in_channels, STEM, 3, padding=1, bias=False))
    channels = STEM
    for stage, narrow in enumerate(WIDTHS):
        width = narrow * widen
        first = WideBlock(channels, width, stride=1 if stage == 0 else 2, dropout=dropout)
        rest = (WideBlock(width, width, dropout=dropout) for _ in range(n - 1))
        layers[f"layer{stage + 1}"] = nn.Sequential(first, *rest)
        channels = width
    layers |= preactivated(channels, classes)
    return he_normal(WideResNet(layers))
