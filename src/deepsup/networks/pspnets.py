"""PSPNet: Zhao, Shi, Qi, Wang, Jia, "Pyramid Scene Parsing Network", CVPR 2017 (arXiv 1612.01105), as its authors'
PyTorch code has it (hszhao/semseg, model/pspnet.py)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks import backbones
from deepsup.networks.backbone_and_decoder import Pyramid, Segmenter, check_bins, coarse, conv_bn_relu
from deepsup.networks.counts import check_positive, check_share


def pspnet(
    *,
    classes: int,
    in_channels: int = 3,
    backbone: str = "timm:resnet50s",
    width: int = 512,
    bins: Sequence[int] = (1, 2, 3, 6),
    dropout: float = 0.1,
    output_stride: int = 8,
    dilation: str = "semseg",
    pretrained: bool = False,
    backbone_options: Mapping[str, Any] | None = None,
    full_size: bool = False,
) -> Segmenter:
    """The pyramid scene parsing network on any backbone, PSPNet50 unless said otherwise.

    Example: `pspnet(classes=150)` maps `(N, 3, 473, 473)` to `(N, 150, 60, 60)`.

    On the backbone's last map: its means over 1, 4, 9 and 36 places, each through a 1x1 convolution to a share of the
    channels (2048 / 4 = 512), BN and ReLU, enlarged with align_corners=True and put beside the map; then 3x3 to
    `width`, BN, ReLU, dropout of whole channels, 1x1 to the classes. The backbone is `backbones.backbone`'s;
    timm's resnet50s, resnet101s, resnet152s have the authors' stem of three 3x3 convolutions, and `dilation="semseg"`
    their dilation (2 in all of layer3, 4 in all of layer4). Layers: backbone, decoder.ppm, decoder.cls.

    The auxiliary classifier is no part of it: it is a branch, head `fcn` on `stages[-2]`, backbone.layer3 of a ResNet
    (method `pspnet`). Scores are at the output stride in training and evaluation alike; `full_size` enlarges them to the
    input's size, align_corners=True. Raises ConfigError for what cannot be built.
    """
    check_positive(classes=classes, in_channels=in_channels, width=width)
    check_bins(bins)
    check_share(dropout=dropout)
    network, stages = backbones.backbone(
        backbone,
        in_channels=in_channels,
        output_stride=output_stride,
        dilation=dilation,
        pretrained=pretrained,
        options=backbone_options,
    )
    channels = stages[-1].channels
    if not 0 < len(bins) <= channels:
        raise ConfigError(
            f"bins={bins!r} must name 1 to {channels} grid sizes: each gets a share of {channels} channels."
        )
    share = channels // len(bins)
    cls = nn.Sequential(
        *conv_bn_relu(channels + len(bins) * share, width, 3), nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1)
    )
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        ppm=Pyramid(channels, share, bins=bins, align_corners=True), cls=cls
    )
    return Segmenter(network, nn.Sequential(parts), stages=coarse(stages), full_size=full_size, align_corners=True)
