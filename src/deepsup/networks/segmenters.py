"""A backbone and a decoder that reads its deepest map: scores for every pixel of a picture, or of a coarser map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup.errors import ConfigError
from deepsup.networks import backbones
from deepsup.networks.backbones import Stage
from deepsup.networks.blocks import check_positive, check_share


@final
class Segmenter(nn.Module):
    """`decoder` on the last map of `backbone`: `(N, 3, H, W)` to scores `(N, classes, h, w)` at that map's resolution.

    With `full_size` scores are enlarged to `(N, classes, H, W)`. `stages` are layers of the backbone, shallow to deep, at
    which branches can be put; as an attribute they are named from the whole network on.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decoder: nn.Module,
        *,
        stages: Sequence[str],
        full_size: bool = False,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.stages = tuple(f"backbone.{layer}" for layer in stages)
        self.levels: tuple[str, ...] = ()  # the decoder has none
        self.full_size = full_size
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:  # (N, in_channels, H, W) to (N, classes, h, w)
        scores: Tensor = self.decoder(self.backbone(x)[-1])
        return resized(scores, x, align_corners=self.align_corners) if self.full_size else scores

    def extra_repr(self) -> str:
        return f"full_size={self.full_size}, align_corners={self.align_corners}" if self.full_size else ""


def segmenter(
    decoder: Callable[[int], nn.Module],
    stages: Callable[[str, Sequence[Stage]], Sequence[str]],
    align_corners: bool = False,
    *,
    in_channels: int = 3,
    backbone: str = "timm:resnet50s",
    output_stride: int = 8,
    dilation: str = "csail",
    pretrained: bool = False,
    backbone_options: Mapping[str, Any] | None = None,
    full_size: bool = False,
) -> Segmenter:
    """A decoder on any backbone. What is named by keyword are the options that C1, PPM and PSPNet share.

    `decoder` makes it for the channels of the last map, `stages` names the layers for branches. backbone, output_stride,
    dilation, pretrained and backbone_options are those of `backbones.backbone`; `full_size` enlarges scores to the
    input's size (bilinear). Raises ConfigError for what cannot be built.
    """
    check_positive(in_channels=in_channels)
    network, found = backbones.backbone(
        backbone,
        in_channels=in_channels,
        output_stride=output_stride,
        dilation=dilation,
        pretrained=pretrained,
        options=backbone_options,
    )
    made = decoder(found[-1].channels)
    return Segmenter(network, made, stages=stages(backbone, found), full_size=full_size, align_corners=align_corners)


@final
class Pyramid(nn.ModuleList):
    """Beside a map its means over coarse grids, each seen by a 1x1 convolution, BN and ReLU, and enlarged again.

    `(N, channels, h, w)` to `(N, channels + len(bins) * width, h, w)`. In training the grid of 1 needs two pictures or
    more (or SyncBatchNorm), because batch normalisation cannot normalise one value.
    """

    def __init__(self, channels: int, width: int, *, bins: Sequence[int], align_corners: bool) -> None:
        pools = (nn.AdaptiveAvgPool2d(size) for size in bins)
        super().__init__(nn.Sequential(pool, *conv_bn_relu(channels, width, 1)) for pool in pools)
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:  # (N, channels, h, w)
        means = [resized(level(x), x, align_corners=self.align_corners) for level in self]
        return torch.cat([x, *means], 1)


def coarse(backbone: str, stages: Sequence[Stage]) -> list[str]:
    """The layers that end the stages of stride 4 and more: conv2 to conv5, in the words of the papers."""
    return [stage.layer for stage in stages if stage.stride >= 4]


def check_bins(bins: Sequence[int]) -> None:
    """Raise ConfigError unless `bins` are the sides of one grid or more."""
    if not isinstance(bins, Sequence) or isinstance(bins, str) or not bins:
        raise ConfigError(f"bins={bins!r} must name the sides of one grid or more, as in (1, 2, 3, 6).")
    check_positive(**{f"bin {place}": size for place, size in enumerate(bins, 1)})


def classifier(channels: int, width: int, *, classes: int, dropout: float) -> nn.Sequential:
    """3x3 to `width`, BN, ReLU, dropout of whole channels, 1x1 to the classes: (N, channels, h, w) to (N, classes, h, w)."""
    check_share(dropout=dropout)
    return nn.Sequential(*conv_bn_relu(channels, width, 3), nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1))


def conv_bn_relu(channels: int, width: int, kernel: int) -> list[nn.Module]:
    """A convolution without bias that keeps the map's size, its normalisation and ReLU."""
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def resized(scores: Tensor, like: Tensor, *, align_corners: bool) -> Tensor:
    """`(N, C, h, w)` as `(N, C, H, W)`, bilinear, H and W being those of `like`."""
    return F.interpolate(scores, like.shape[2:], mode="bilinear", align_corners=align_corners)
