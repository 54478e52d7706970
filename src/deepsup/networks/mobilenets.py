"""MobileNets for small images: Howard et al. 2017 (arXiv 1704.04861), Sandler et al. 2018 (arXiv 1801.04381)."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

from torch import Tensor, nn

from deepsup.errors import ConfigError
from deepsup.networks.blocks import check_positive, check_share, he_normal
from deepsup.networks.families import family
from deepsup.specs import ABOVE_ZERO

STEM = 32
# One row a stage, one pair (channels, stride) a block.
STAGES_V1 = (
    ((64, 1),),
    ((128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), *((512, 1),) * 5),
    ((1024, 2), (1024, 1)),
)
STAGES_V2 = (
    ((16, 1), *((24, 1),) * 2),  # the second group has stride 2 on ImageNet
    ((32, 2), *((32, 1),) * 2),
    ((64, 2), *((64, 1),) * 3, *((96, 1),) * 3),
    ((160, 2), *((160, 1),) * 2, (320, 1)),
)
LAST_V2 = 1280


@final
class Separable(nn.Sequential):
    """A 3x3 convolution of each channel for itself, then a 1x1 convolution across channels; both normalised, ReLU."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False),
                bn1=nn.BatchNorm2d(channels),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(channels, width, 1, bias=False),
                bn2=nn.BatchNorm2d(width),
                relu2=nn.ReLU(),
            )
        )


@final
class InvertedResidual(nn.Module):
    """Widen by `expand`, convolve each channel for itself, narrow without activation; a shortcut where shapes agree."""

    def __init__(self, channels: int, width: int, *, stride: int, expand: int) -> None:
        super().__init__()
        wide = channels * expand
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expand != 1:
            layers |= OrderedDict(conv1=nn.Conv2d(channels, wide, 1, bias=False), bn1=nn.BatchNorm2d(wide))
            layers["relu1"] = nn.ReLU6()
        layers["conv2"] = nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False)
        layers |= OrderedDict(bn2=nn.BatchNorm2d(wide), relu2=nn.ReLU6())
        layers |= OrderedDict(conv3=nn.Conv2d(wide, width, 1, bias=False), bn3=nn.BatchNorm2d(width))
        self.residual = nn.Sequential(layers)
        self.shortcut = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:  # (N, channels, H, W) to (N, width, H / stride, W / stride)
        residual: Tensor = self.residual(x)
        return residual + x if self.shortcut else residual


@final
class MobileNetV1(nn.Sequential):
    """What `mobilenet_v1` builds: the layers run in the order of their names."""


@final
class MobileNetV2(nn.Sequential):
    """What `mobilenet_v2` builds: the layers run in the order of their names."""


@family("mobilenet-v1")
def mobilenet_v1(*, classes: int, in_channels: int = 3, width: float = 1.0) -> MobileNetV1:
    """MobileNet with 13 separable convolutions for CIFAR; every channel count times `width`.

    Example: `mobilenet_v1(classes=100)` has 3.3M parameters.

    Layers are named conv1, bn1, relu1, layer1, ..., layer5, avgpool, flatten, fc; a stage is what runs at one
    resolution: 32, 16, 8, 4, 2 pixels of 32. Input `(N, in_channels, H, W)` of any size, output `(N, classes)`. Against
    the paper, whose network reads 224x224 pixels, only the first convolution's stride is 1 instead of 2, as is usual for
    CIFAR (kuangliu/pytorch-cifar); the paper's alpha is `width`. Initialised by `he_normal`. Raises ConfigError for a
    width that is no positive number.
    """
    check_positive(classes=classes, in_channels=in_channels)
    _check_width(width)
    channels = _scaled(STEM, width)
    layers = _stem(in_channels, channels, nn.ReLU())
    for number, stage in enumerate(STAGES_V1, 1):
        blocks = []
        for plain, stride in stage:
            blocks.append(Separable(channels, _scaled(plain, width), stride=stride))
            channels = _scaled(plain, width)
        layers[f"layer{number}"] = nn.Sequential(*blocks)
    layers |= OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
    return he_normal(MobileNetV1(layers))


@family("mobilenet-v2")
def mobilenet_v2(*, classes: int, in_channels: int = 3, width: float = 1.0, dropout: float = 0.2) -> MobileNetV2:
    """MobileNetV2 with 17 inverted residuals for CIFAR; every channel count times `width`.

    Example: `mobilenet_v2(classes=100)` has 2.35M parameters, as many as torchvision's for ImageNet with 100 classes.

    Layers are named conv1, bn1, relu1, layer1, ..., layer4, conv2, bn2, relu2, avgpool, flatten, dropout, fc; a stage is
    what runs at one resolution: 32, 16, 8, 4 pixels of 32. Input `(N, in_channels, H, W)` of any size, output
    `(N, classes)`. Against the paper, whose network reads 224x224 pixels, the first convolution and the second group of
    blocks (24 channels) have stride 1 instead of 2, as is usual for CIFAR (kuangliu/pytorch-cifar, which moreover
    convolves shortcuts that change the width; the paper and this network have none there). The 1280 channels at the end
    never shrink below that, as in the authors' code. `dropout` in [0, 1) before fc is 0.2 as in the authors' and
    torchvision's code. Initialised by `he_normal`. Raises ConfigError for a width that is no positive number.
    """
    check_positive(classes=classes, in_channels=in_channels)
    check_share(dropout=dropout)
    _check_width(width)
    channels = _scaled(STEM, width)
    layers = _stem(in_channels, channels, nn.ReLU6())
    for number, stage in enumerate(STAGES_V2, 1):
        blocks = []
        for plain, stride in stage:
            expand = 1 if plain == STAGES_V2[0][0][0] else 6
            blocks.append(InvertedResidual(channels, _scaled(plain, width), stride=stride, expand=expand))
            channels = _scaled(plain, width)
        layers[f"layer{number}"] = nn.Sequential(*blocks)
    last = _scaled(LAST_V2, max(1.0, width))
    layers |= OrderedDict(conv2=nn.Conv2d(channels, last, 1, bias=False), bn2=nn.BatchNorm2d(last), relu2=nn.ReLU6())
    layers |= OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), dropout=nn.Dropout(dropout))
    layers["fc"] = nn.Linear(last, classes)
    return he_normal(MobileNetV2(layers))


def _stem(in_channels: int, channels: int, activation: nn.Module) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        conv1=nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(channels),
        relu1=activation,
    )


def _check_width(width: float) -> None:
    if not ABOVE_ZERO.fits(width):
        raise ConfigError(f"width={width!r} must be a positive number, such as 0.5, 1 or 1.4.")


def _scaled(channels: int, width: float) -> int:
    """`channels * width` as the nearest multiple of 8, at least 8, and never more than a tenth too few."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8
