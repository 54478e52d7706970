"""ImageNet's residual networks with a stem for small images."""

from __future__ import annotations

import importlib

from torch import nn

from deepsup.errors import ConfigError, MissingPackageError
from deepsup.networks.counts import check_positive

DEPTHS = (18, 34, 50, 101, 152)


def resnet_3x3(depth: int, *, classes: int, in_channels: int = 3) -> nn.Module:
    """torchvision's ResNet whose stem is one 3x3 convolution of stride 1, without the pooling: for 32x32 pixels.

    Example: `resnet_3x3(18, classes=100)` has 11,220,132 parameters.

    What BYOT (Zhang et al. 2019), contrastive deep supervision (Zhang et al. 2022) and most CIFAR code call ResNet-18.
    Layers are named as torchvision's. Raises ConfigError for a depth that there is not.
    """
    check_positive(classes=classes, in_channels=in_channels)
    if depth not in DEPTHS:
        raise ConfigError(f"'resnet-{depth}-3x3' cannot be built: there are the depths {', '.join(map(str, DEPTHS))}.")
    try:
        models = importlib.import_module("torchvision.models")
    except ModuleNotFoundError:
        raise MissingPackageError(
            f"'resnet-{depth}-3x3' needs torchvision, which is not installed: pip install \"deepsup[train]\"."
        ) from None
    network: nn.Module = getattr(models, f"resnet{depth}")(weights=None, num_classes=classes)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network
