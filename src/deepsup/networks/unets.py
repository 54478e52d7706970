"""U-Nets: Ronneberger et al. 2015 (arXiv 1505.04597), as they are trained on the vessels of the retina."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from torch import Tensor, nn

from deepsup.errors import ConfigError
from deepsup.networks.backbones import Stage, backbone
from deepsup.networks.blocks import check_positive
from deepsup.networks.families import family
from deepsup.networks.gridding import warn_of_gridding
from deepsup.networks.levels import Style, Up, check_widths, convolutions, initialise

PLAIN_WIDTHS = (32, 64, 128)
BACKBONE_WIDTHS = (16, 32, 64, 128, 256, 512)  # of the decoder; as many as the backbone has levels to come back from
SHORT = {"resnet34": "timm:resnet34"}


@family("unet")
def unet(
    *,
    classes: int,
    in_channels: int = 3,
    widths: Sequence[int] | None = None,
    convs: int = 2,
    norm: str | None = "batch",
    dropout: float = 0.2,
    activation: str = "relu",
    dilations: Sequence[int] | Sequence[Sequence[int]] | None = None,
    encoder: str = "plain",
    upsample: str = "nearest",
    pretrained: bool = False,
) -> UNet | BackboneUNet:
    """A U-Net: (N, in_channels, H, W) to scores (N, classes, H, W), for images of any size.

    Example: `unet(classes=2, in_channels=1, norm=None)` is the network of orobix/retina-unet, of 471,010 parameters.
    The variants of it that were tried on vessels are one option each: `norm="batch"` (the default here),
    `activation="leaky_relu(slope=0.01)"`, `"prelu"` or `"rrelu"` (see `deepsup.networks.activations`),
    `convs=3, dilations=(1, 2, 3)`, `encoder="resnet34"`, `dropout=0`.

    - widths: channels of the levels, fine to coarse; (32, 64, 128) by default, of which the last is the bottom.
    - convs: 3x3 convolutions a level, with `dropout` in [0, 1) of single values between them.
    - norm: "batch", "group" (8 groups), "instance" (which needs two values in the coarsest map), or None.
    - dilations: a rate for each convolution of a level, or such a row for each of `widths`. Rates that leave pixels of
      their field out bring a `GriddingWarning`, which names rates that do not.
    - encoder: "plain", "resnet34" (of timm), or any backbone, "timm:NAME" or "torchvision:NAME". Then `widths` are
      those of the decoder, one for each time that its map grows, (16, 32, 64, 128, 256) for a ResNet. `pretrained`
      loads the backbone's trained weights.
    - upsample: "nearest", "bilinear", or "transpose", a learned convolution to the level's width.

    Layers: down1, pool1, down2, ..., bottom, ..., up2, up1, score; with a backbone `encoder`, up5, ..., up1, score.
    `model.stages` are the layers of the way down, `model.levels` those of the way up, coarse to fine; `score`, a 1x1
    convolution, reads the last. A side must be at least 2 to the number of poolings. Drawn by `initialise` of
    `deepsup.networks.levels`; a backbone keeps its own weights.

    orobix puts a ReLU between the last convolution and the softmax, so that no class can get a score below 0; that is
    not repeated. Raises ConfigError for options that there are not or that do not fit together.
    """
    check_positive(classes=classes, in_channels=in_channels, convs=convs)
    style = Style(norm=norm, dropout=dropout, activation=activation, upsample=upsample)
    if encoder == "plain":
        if pretrained:
            raise ConfigError("the plain encoder has no trained weights; take a backbone: encoder='timm:resnet34'.")
        widths = PLAIN_WIDTHS if widths is None else widths
        check_widths(widths)
        rates = _rates(dilations, levels=len(widths), convs=convs)
        warn_of_gridding(rates)
        return UNet(in_channels, widths, classes, style, rates=rates)
    trunk, stages = backbone(SHORT.get(encoder, encoder), in_channels=in_channels, pretrained=pretrained)
    needed = len(stages) - 1 if stages[0].stride == 1 else len(stages)
    widths = BACKBONE_WIDTHS[:needed] if widths is None else widths
    check_widths(widths, least=1)
    if len(widths) != needed:
        raise ConfigError(f"{encoder!r} has {needed} levels to come back from; widths={widths!r} names {len(widths)}.")
    rates = _rates(dilations, levels=needed, convs=convs)
    warn_of_gridding(rates)
    return BackboneUNet(trunk, stages, widths, classes, style, rates=rates)


@final
class UNet(nn.Module):
    """What `unet` builds of a plain encoder."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], classes: int, style: Style, *, rates: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        self.depth = len(widths) - 1
        channels = in_channels
        for level, width in enumerate(widths[:-1], 1):
            self.add_module(f"down{level}", convolutions(channels, width, style, rates=rates[level - 1]))
            self.add_module(f"pool{level}", nn.MaxPool2d(2))
            channels = width
        self.bottom = convolutions(channels, widths[-1], style, rates=rates[-1])
        for level in range(self.depth, 0, -1):
            width = widths[level - 1]
            self.add_module(f"up{level}", Up(widths[level], width, width, style, rates=rates[level - 1]))
        self.score = nn.Conv2d(widths[0], classes, 1)
        self.stages = (*(f"down{level}" for level in range(1, self.depth + 1)), "bottom")
        self.levels = tuple(f"up{level}" for level in range(self.depth, 0, -1))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:  # (N, in_channels, H, W) to (N, classes, H, W)
        beside = []
        for level in range(1, self.depth + 1):
            beside.append(self.get_submodule(f"down{level}")(x))
            x = self.get_submodule(f"pool{level}")(beside[-1])
        x = self.bottom(x)
        for level in range(self.depth, 0, -1):
            x = self.get_submodule(f"up{level}")(x, beside[level - 1])
        return self.score(x)  # type: ignore[no-any-return]


@final
class BackboneUNet(nn.Module):
    """What `unet` builds of a backbone. Few have a map of the image's own size, so nothing stands beside the finest level."""

    def __init__(
        self,
        trunk: nn.Module,
        stages: Sequence[Stage],
        widths: Sequence[int],
        classes: int,
        style: Style,
        *,
        rates: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        fine = [*([] if stages[0].stride == 1 else [Stage("", 0, 1)]), *stages]
        below = [*widths[1:], stages[-1].channels]
        decoder = nn.ModuleDict()
        for level in range(len(widths), 0, -1):
            beside, width = fine[level - 1], widths[level - 1]
            factor = fine[level].stride // beside.stride
            decoder[f"up{level}"] = Up(
                below[level - 1], beside.channels, width, style, rates=rates[level - 1], factor=factor
            )
        decoder["score"] = nn.Conv2d(widths[0], classes, 1)
        initialise(decoder)
        self.encoder = trunk
        for name, layer in decoder.items():
            self.add_module(name, layer)
        self.stages = tuple(f"encoder.{stage.layer}" for stage in stages)
        self.levels = tuple(f"up{level}" for level in range(len(widths), 0, -1))

    def forward(self, x: Tensor) -> Tensor:  # (N, in_channels, H, W) to (N, classes, H, W)
        maps = self.encoder(x)
        beside = [x, *maps] if len(maps) == len(self.levels) else maps
        y = maps[-1]
        for level in range(len(self.levels), 0, -1):
            y = self.get_submodule(f"up{level}")(y, beside[level - 1])
        return self.get_submodule("score")(y)  # type: ignore[no-any-return]


def _rates(dilations: Any, *, levels: int, convs: int) -> list[tuple[int, ...]]:
    """A row of rates for each level, from what the user gave: nothing, one row, or one a level."""
    if dilations is None:
        return [(1,) * convs] * levels
    given = dilations if isinstance(dilations, (list, tuple)) else ()
    nested = all(isinstance(row, (list, tuple)) for row in given)
    rows = [tuple(row) for row in given] if nested else [tuple(given)] * levels
    if len(rows) != levels or any(len(row) != convs for row in rows):
        raise ConfigError(
            f"dilations={dilations!r} must be {convs} rates, one a convolution (convs={convs}), or {levels} rows of so "
            "many, one a level."
        )
    for row in rows:
        check_positive(**{f"dilation rate {place}": rate for place, rate in enumerate(row, 1)})
    return rows
