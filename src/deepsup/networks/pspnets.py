"""PSPNet: Zhao, Shi, Qi, Wang, Jia, "Pyramid Scene Parsing Network", CVPR 2017 (arXiv 1612.01105), as its authors'
PyTorch code has it (hszhao/semseg, model/pspnet.py)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks.blocks import check_positive, check_share
from deepsup.networks.families import family
from deepsup.networks.segmenters import Pyramid, Segmenter, check_bins, classifier, coarse, segmenter


@family("pspnet", also=segmenter)
def pspnet(
    *,
    classes: int,
    width: int = 512,
    bins: Sequence[int] = (1, 2, 3, 6),
    dropout: float = 0.1,
    dilation: str = "semseg",
    **trunk: Any,
) -> Segmenter:
    """The pyramid scene parsing network on any backbone, PSPNet50 unless said otherwise.

    Example: `pspnet(classes=150)` maps `(N, 3, 473, 473)` to `(N, 150, 60, 60)`.

    On the backbone's last map: its means over 1, 4, 9 and 36 places, each through a 1x1 convolution to a share of the
    channels (2048 / 4 = 512), BN and ReLU, enlarged with align_corners=True and put beside the map; then 3x3 to
    `width`, BN, ReLU, dropout of whole channels, 1x1 to the classes. `trunk` are the options of `segmenter`;
    timm's resnet50s, resnet101s, resnet152s have the authors' stem of three 3x3 convolutions, and `dilation="semseg"`
    their dilation (2 in all of layer3, 4 in all of layer4). Layers: backbone, decoder.ppm, decoder.cls.

    The auxiliary classifier is no part of it: it is a branch, head `fcn` on `stages[-2]`, backbone.layer3 of a ResNet
    (method `pspnet`). Scores are at the output stride in training and evaluation alike; `full_size` enlarges them to the
    input's size, align_corners=True. Raises ConfigError for what cannot be built.
    """
    check_positive(classes=classes, width=width)
    check_bins(bins)
    check_share(dropout=dropout)

    def decoder(channels: int) -> nn.Module:
        if len(bins) > channels:
            raise ConfigError(
                f"bins={bins!r} must name 1 to {channels} grid sizes: each gets a share of {channels} channels."
            )
        share = channels // len(bins)
        pyramid = Pyramid(channels, share, bins=bins, align_corners=True)
        cls = classifier(channels + len(bins) * share, width, classes=classes, dropout=dropout)
        return nn.Sequential(OrderedDict(ppm=pyramid, cls=cls))

    return segmenter(decoder, coarse, align_corners=True, dilation=dilation, **trunk)
