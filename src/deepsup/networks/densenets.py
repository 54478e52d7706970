"""Densely connected networks for small images: Huang et al., CVPR 2017 (arXiv 1608.06993)."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

import torch
from torch import Tensor, nn

from deepsup.networks.blocks import check_positive, check_share, he_normal, preactivated, repeats
from deepsup.networks.families import family

STEM = 16  # channels of the first convolution without bottlenecks; with them it is twice the growth
BOTTLENECK = 4  # a bottleneck's width in growths
COMPRESSION = 0.5  # of a transition, with bottlenecks
DENSE_BLOCKS = 3


@final
class DenseLayer(nn.Module):
    """`growth` new channels from all those before them, and these before the new ones: (N, C) -> (N, C + growth)."""

    def __init__(self, channels: int, growth: int, *, bottleneck: bool, dropout: float) -> None:
        super().__init__()
        new: OrderedDict[str, nn.Module] = OrderedDict()
        narrow = BOTTLENECK * growth if bottleneck else growth
        new["bn1"], new["relu1"] = nn.BatchNorm2d(channels), nn.ReLU()
        if bottleneck:
            new["conv1"] = nn.Conv2d(channels, narrow, 1, bias=False)
            if dropout:
                new["dropout1"] = nn.Dropout(dropout)
            new["bn2"], new["relu2"] = nn.BatchNorm2d(narrow), nn.ReLU()
            new["conv2"] = nn.Conv2d(narrow, growth, 3, padding=1, bias=False)
        else:
            new["conv1"] = nn.Conv2d(channels, growth, 3, padding=1, bias=False)
        if dropout:
            new["dropout"] = nn.Dropout(dropout)
        self.new = nn.Sequential(new)

    def forward(self, x: Tensor) -> Tensor:  # (N, channels, H, W)
        return torch.cat((x, self.new(x)), 1)


@final
class DenseNet(nn.Sequential):
    """What `densenet` builds: the layers run in the order of their names."""


@family("densenet-N-K", "densenet-40-12", "densenet-100-12", "densenet-100-24", bottleneck=False)
@family("densenet-bc-N-K", "densenet-bc-100-12", "densenet-bc-250-24", "densenet-bc-190-40", bottleneck=True)
def densenet(
    depth: int,
    growth: int,
    *,
    classes: int,
    in_channels: int = 3,
    bottleneck: bool = False,
    dropout: float = 0.0,
) -> DenseNet:
    """DenseNet of `depth` layers and growth rate `growth` for CIFAR; with `bottleneck`, DenseNet-BC.

    Example: `densenet(100, 12, classes=100, bottleneck=True)` is DenseNet-BC (L=100, k=12), 0.8M parameters.

    Three dense blocks of the same number of layers with transitions (1x1 convolution, average of 2x2 pixels) between
    them. Plain: depth 3n+4, 16 channels to begin with. BC: depth 6n+4, each layer is a 1x1 convolution to 4 growths and
    a 3x3 convolution, transitions halve the channels, and twice the growth to begin with. Layers are named conv1,
    layer1, transition1, layer2, transition2, layer3, bn1, relu1, avgpool, flatten, fc; each layerN is a sequence of
    layers that return their input with the new channels behind it. Input `(N, in_channels, H, W)` with sides of at least
    4 (32 in the paper), output `(N, classes)`. `dropout` in [0, 1) follows every convolution but the first; the paper
    takes 0.2 on data without augmentation. Initialised by `he_normal`. Raises ConfigError for another depth, growth or
    dropout.
    """
    name, step = ("densenet-bc", 6) if bottleneck else ("densenet", 3)
    n = repeats(depth, step=step, rest=4, network=f"{name}-{depth}-{growth}")
    check_positive(growth=growth, classes=classes, in_channels=in_channels)
    check_share(dropout=dropout)
    channels = 2 * growth if bottleneck else STEM
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
    for block in range(1, DENSE_BLOCKS + 1):
        before = [channels + growth * i for i in range(n)]
        layers[f"layer{block}"] = nn.Sequential(
            *(DenseLayer(c, growth, bottleneck=bottleneck, dropout=dropout) for c in before)
        )
        channels += growth * n
        if block < DENSE_BLOCKS:
            width = int(channels * COMPRESSION) if bottleneck else channels
            layers[f"transition{block}"] = _transition(channels, width, dropout=dropout)
            channels = width
    layers |= preactivated(channels, classes)
    return he_normal(DenseNet(layers))


def _transition(channels: int, width: int, *, dropout: float) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        bn1=nn.BatchNorm2d(channels), relu1=nn.ReLU(), conv1=nn.Conv2d(channels, width, 1, bias=False)
    )
    if dropout:
        layers["dropout1"] = nn.Dropout(dropout)
    layers["avgpool"] = nn.AvgPool2d(2)
    return nn.Sequential(layers)
