"""Omni-scale networks: Zhou, Yang, Cavallaro, Xiang, "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019
(arXiv 1905.00953), tables 1 and 2.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import final

from torch import Tensor, nn

from deepsup.errors import ConfigError
from deepsup.heads.modules import Mean
from deepsup.networks.blocks import check_positive
from deepsup.networks.families import family

CHANNELS = (64, 256, 384, 512)  # of the stem and of the three stages, at width 1
SCALES = 4  # streams of a block: 1 to 4 light convolutions, which see 3 to 9 pixels
FEATURE = 512
WIDTHS = (0.25, 0.5, 0.75, 1.0)


def _normalised(channels: int, width: int, kernel: int = 1, *, stride: int = 1, relu: bool = True) -> list[nn.Module]:
    conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(width), *([nn.ReLU()] if relu else [])]


@final
class LightConv(nn.Sequential):
    """A 1x1 convolution, then a 3x3 one of each channel for itself, normalised, ReLU (Lite 3x3 of the paper)."""

    def __init__(self, width: int) -> None:
        depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        super().__init__(nn.Conv2d(width, width, 1, bias=False), depthwise, nn.BatchNorm2d(width), nn.ReLU())


@final
class ChannelGate(nn.Module):
    """How much each channel of a stream counts, from its mean: the aggregation gate, one for all streams of a block."""

    def __init__(self, width: int, *, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, width // reduction)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(hidden, width, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        return x * self.sigmoid(self.fc2(self.relu(self.fc1(self.pool(x)))))  # type: ignore[no-any-return]


@final
class OmniScaleBlock(nn.Module):
    """ReLU(residual + shortcut), the residual being four streams of light convolutions, gated and added (figure 4)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        middle = width // 4
        self.conv1 = nn.Sequential(*_normalised(channels, middle))
        self.streams = nn.ModuleList(
            nn.Sequential(*(LightConv(middle) for _ in range(scale))) for scale in range(1, SCALES + 1)
        )
        self.gate = ChannelGate(middle)
        self.conv3 = nn.Sequential(*_normalised(middle, width, relu=False))
        self.shortcut = nn.Sequential(*(_normalised(channels, width, relu=False) if channels != width else []))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:  # (N, channels, H, W) to (N, width, H, W)
        seen = self.conv1(x)
        gated: Tensor = sum(self.gate(stream(seen)) for stream in self.streams)
        return self.relu(self.conv3(gated) + self.shortcut(x))  # type: ignore[no-any-return]


@final
class OSNet(nn.Sequential):
    """What `osnet` builds: the layers run in the order of their names."""


@family("osnet")
def osnet(*, classes: int, in_channels: int = 3, width: float = 1.0) -> OSNet:
    """OSNet for identities as classes; every channel count but that of the feature times `width`: 0.25, 0.5, 0.75 or 1.

    Example: `osnet(classes=751)` has 2.2M parameters before its classifier, and 0.98G multiply-adds at 256x128.

    Layers are named conv1, bn1, relu1, maxpool, layer1, transition1, layer2, transition2, layer3, conv5, bn5, relu5, pool,
    fc1, bn6, relu6, fc; a layerN is two blocks, a transition a 1x1 convolution and a 2x2 average. What relu6 gives out, 512
    wide, is the embedding. Input `(N, in_channels, H, W)` of any size, 256x128 in the paper. Initialised as the authors'
    code does: convolutions from N(0, 2 / fan_out), linear layers from N(0, 0.01²), biases 0. Raises ConfigError for another
    width.
    """
    check_positive(classes=classes, in_channels=in_channels)
    if width not in WIDTHS or isinstance(width, bool):
        raise ConfigError(f"width={width!r}: OSNet has the widths {', '.join(map(str, WIDTHS))}.")
    stem, *stages = (int(c * width) for c in CHANNELS)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        zip(("conv1", "bn1", "relu1"), _normalised(in_channels, stem, 7, stride=2), strict=True)
    )
    layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    channels = stem
    for n, wide in enumerate(stages, 1):
        layers[f"layer{n}"] = nn.Sequential(OmniScaleBlock(channels, wide), OmniScaleBlock(wide, wide))
        if n < len(stages):
            layers[f"transition{n}"] = nn.Sequential(*_normalised(wide, wide), nn.AvgPool2d(2))
        channels = wide
    layers |= zip(("conv5", "bn5", "relu5"), _normalised(channels, channels), strict=True)
    layers |= OrderedDict(
        pool=Mean(2, 3), fc1=nn.Linear(channels, FEATURE), bn6=nn.BatchNorm1d(FEATURE), relu6=nn.ReLU()
    )
    layers["fc"] = nn.Linear(FEATURE, classes)
    return _begun(OSNet(layers))


def _begun(network: OSNet) -> OSNet:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return network
