"""CSAIL's decoders on any backbone: one convolution (C1), or a pyramid of pools (PPM).

Source: CSAILVision/semantic-segmentation-pytorch, mit_semseg/models/models.py, the code of Zhou et al., "Semantic
Understanding of Scenes through the ADE20K Dataset" (IJCV 2019). What its decoders called "deepsup" have besides is no
part of the networks here: it is a branch with head `c1` on `stages[-2]`, which the methods c1-deepsup and ppm-deepsup add.

Scores are raw, at the backbone's output stride. CSAIL's are log_softmax of them in training, which belongs to the loss.
Decoders keep CSAIL's layer names, so the state of a released decoder, without its "deepsup" entries, fits `decoder`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import nn

from deepsup.heads.modules import csail_initial
from deepsup.networks.backbones import Stage
from deepsup.networks.blocks import check_positive, check_share
from deepsup.networks.families import family
from deepsup.networks.segmenters import Pyramid, Segmenter, check_bins, classifier, coarse, conv_bn_relu, segmenter

# CSAIL reads MobileNetV2 after the block that begins a stage (its `down_idx`), all others after the one that ends it.
CSAIL_STAGES = {
    "timm:mobilenetv2": ("blocks.1.0", "blocks.2.0", "blocks.3.0", "blocks.5.0"),
    "torchvision:mobilenet_v2": ("features.2", "features.4", "features.7", "features.14"),
}


@family("c1", also=segmenter)
def c1(*, classes: int, width: int | None = None, **trunk: Any) -> Segmenter:
    """CSAIL's C1: on the backbone's last map a 3x3 convolution to a quarter of its channels, BN, ReLU, and a 1x1.

    Example: `c1(classes=150, backbone="timm:resnet18", backbone_options={"stem_type": "deep", "stem_width": 64})` is
    its resnet18dilated with c1, from `(N, 3, H, W)` to `(N, 150, H / 8, W / 8)`.

    `width` is what comes before the classes, by default that quarter (512 of 2048). `trunk` are the options of
    `segmenter`. CSAIL's ResNets have a stem of three 3x3 convolutions, as timm's resnet50s and resnet101s. The decoder
    begins with CSAIL's initial weights. Raises ConfigError for what cannot be built.
    """
    check_positive(classes=classes)

    def decoder(channels: int) -> nn.Module:
        inner = max(1, channels // 4) if width is None else width
        check_positive(width=inner)
        cbr = nn.Sequential(*conv_bn_relu(channels, inner, 3))
        return csail_initial(nn.Sequential(OrderedDict(cbr=cbr, conv_last=nn.Conv2d(inner, classes, 1))))

    return segmenter(decoder, csail_stages, **trunk)


@family("ppm", also=segmenter)
def ppm(
    *, classes: int, width: int = 512, bins: Sequence[int] = (1, 2, 3, 6), dropout: float = 0.1, **trunk: Any
) -> Segmenter:
    """CSAIL's PPM: the backbone's last map beside its means over 1, 4, 9 and 36 places, then 3x3, BN, ReLU, dropout, 1x1.

    Example: `ppm(classes=150)` is its resnet50dilated with ppm, from `(N, 3, H, W)` to `(N, 150, H / 8, W / 8)`.

    Every mean gets `width` channels, whatever the backbone has, and so does what follows; PSPNet (`pspnet`) gives each a
    quarter of the backbone's channels. Means are enlarged with align_corners=False. `dropout` leaves whole channels out.
    The rest is as in `c1`. Raises ConfigError for what cannot be built.
    """
    check_positive(classes=classes, width=width)
    check_bins(bins)
    check_share(dropout=dropout)

    def decoder(channels: int) -> nn.Module:
        pyramid = Pyramid(channels, width, bins=bins, align_corners=False)
        conv_last = classifier(channels + len(bins) * width, width, classes=classes, dropout=dropout)
        return csail_initial(nn.Sequential(OrderedDict(ppm=pyramid, conv_last=conv_last)))

    return segmenter(decoder, csail_stages, **trunk)


def csail_stages(spec: str, stages: Sequence[Stage]) -> list[str]:
    """The layers that CSAIL's decoders may read, the deepest last."""
    known = next((layers for name, layers in CSAIL_STAGES.items() if spec.startswith(name)), None)
    return coarse(spec, stages) if known is None else [*known, stages[-1].layer]
