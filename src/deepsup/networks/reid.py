"""Networks that tell identities apart: a backbone, pooling, the neck of the strong baseline, and a classifier.

Luo et al. 2019, "Bag of Tricks and a Strong Baseline for Deep Person Re-identification" (arXiv 1903.07071).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from deepsup.errors import ConfigError
from deepsup.heads.identities import POOLINGS, Neck, Scoring, pooling
from deepsup.networks.backbones import SIDE, Stage, backbone
from deepsup.networks.blocks import check_positive, he_normal, repeats
from deepsup.networks.families import family
from deepsup.networks.resnets import BasicBlock
from deepsup.networks.shapes import run_on_meta, stride_of


@final
class ReIdentifier(nn.Module):
    """The last map of `backbone`, pooled, normalised by `neck` and scored by `fc`: (N, C, H, W) to (N, classes).

    What `neck` gives out is the embedding. `stages` are the layers after which methods put branches, shallow to deep, the
    last one included.
    """

    def __init__(
        self, backbone: nn.Module, *, stages: Sequence[str], end: tuple[nn.Module, nn.Module, nn.Module]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool, self.neck, self.fc = end
        self.stages = tuple(f"backbone.{layer}" for layer in stages)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.neck(self.pool(self.backbone(x)[-1])))  # type: ignore[no-any-return]


@family("reid")
def reid(
    *,
    classes: int,
    in_channels: int = 3,
    backbone: str = "timm:resnet50",
    last_stride: int = 1,
    neck: str = "bn",
    pool: str = "avg",
    pretrained: bool = False,
    backbone_options: Mapping[str, Any] | None = None,
) -> ReIdentifier:
    """The strong baseline of re-identification on any backbone (Luo et al. 2019), for identities as classes.

    Example: `reid(classes=751, pretrained=True)` is theirs with ResNet-50; `reid(classes=100,
    backbone="deepsup:resnet-18-slim")` trains on a CPU.

    `backbone` is `timm:NAME`, `torchvision:NAME` or `deepsup:NAME`, see `backbones.backbone`; `backbone_options` go to it.
    `last_stride=1` takes the stride out of its last stage, without dilation, so that its last map is twice as high and
    wide; 2 leaves it. `neck="bn"` is batch normalisation without shift before a linear layer without bias that begins at
    N(0, 0.001²), `"none"` a plain linear layer. `pool` is `"avg"`, or `"gem"` (generalised mean, p learned).
    Raises ConfigError for what cannot be built.
    """
    check_positive(classes=classes, in_channels=in_channels)
    for option, value, known in (("neck", neck, ("bn", "none")), ("last_stride", last_stride, (1, 2))):
        if value not in known or isinstance(value, bool):
            raise ConfigError(f"{option}={value!r} must be {' or '.join(map(repr, known))}.")
    if not POOLINGS.fits(pool):
        raise ConfigError(f"pool={pool!r} must be {POOLINGS.says}.")
    network, stages = _backbone(backbone, in_channels, pretrained, backbone_options)
    if last_stride == 1:
        _take_last_stride(network, stages, in_channels, f"backbone {backbone!r}")
    width = stages[-1].channels
    end = (
        pooling(pool, 2, 3)[0],
        Neck(width) if neck == "bn" else nn.Identity(),
        Scoring(width, classes) if neck == "bn" else nn.Linear(width, classes),
    )
    return ReIdentifier(network, stages=_ends(network, stages), end=end)


def _backbone(
    spec: str, in_channels: int, pretrained: bool, options: Mapping[str, Any] | None
) -> tuple[nn.Module, tuple[Stage, ...]]:
    return backbone(spec, in_channels=in_channels, pretrained=pretrained, options=options)


def _ends(network: nn.Module, stages: Sequence[Stage]) -> list[str]:
    """The ends of the stages without those of a stem, which are single layers."""
    blocks = [s.layer for s in stages[:-1] if any(network.get_submodule(s.layer).children())]
    return [*(blocks or [s.layer for s in stages[:-1]]), stages[-1].layer]


def _take_last_stride(network: nn.Module, stages: Sequence[Stage], in_channels: int, what: str) -> None:
    """Give the convolutions that make the last map smaller than the one before a stride of 1."""
    shape = (1, in_channels, SIDE, SIDE)
    limit = stages[-2].stride if len(stages) > 1 else stages[-1].stride
    for name, seen in run_on_meta(network, shape, what=what)[0]:
        layer = network.get_submodule(name)
        if isinstance(layer, nn.Conv2d) and len(seen.gave) == 4 and stride_of(seen.gave, SIDE) > limit:
            layer.stride = (1, 1)
    sizes = [tuple(found.shape[2:]) for found in _maps(network, shape, what)]
    if len(stages) < 2 or sizes[-1] != sizes[-2]:
        raise ConfigError(
            f"{what} has no last stride that could be 1: something other than convolutions with padding makes its last map "
            "smaller. Set last_stride=2, or choose another backbone, such as timm:resnet50."
        )


def _maps(network: nn.Module, shape: tuple[int, ...], what: str) -> list[Tensor]:
    try:
        return list(run_on_meta(network, shape, what=what)[1])
    except ConfigError as error:  # a pooled shortcut that kept its stride
        raise ConfigError(f"{what} does not run with last_stride=1: {error} Set last_stride=2.") from error


@final
class SlimResNet(nn.Sequential):
    """What `slim_resnet` builds: the layers run in the order of their names."""


@family("resnet-N-slim", "resnet-18-slim")
def slim_resnet(depth: int, *, classes: int, in_channels: int = 3, width: int = 8) -> SlimResNet:
    """A residual network of `depth` = 8n+2 layers, narrow enough to train on a CPU: four stages of n basic blocks, `width`, 2, 4
    and 8 times `width` channels wide; the stem is a 3x3 convolution of stride 2.

    Example: `reid(classes=100, backbone="deepsup:resnet-18-slim")` has 182 thousand parameters.

    Layers are named as in `resnet`; shortcuts that change shape are projections. Of no paper: it is ResNet-18 in small, for
    images of 64x32 pixels and the like. Initialised by `he_normal`. Raises ConfigError for a depth that there is not.
    """
    check_positive(classes=classes, in_channels=in_channels, width=width)
    blocks = repeats(depth, step=8, rest=2, network=f"resnet-{depth}-slim")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False),
        bn1=nn.BatchNorm2d(width),
        relu1=nn.ReLU(),
    )
    channels = width
    for stage in range(4):
        wide = width * 2**stage
        first = BasicBlock(channels, wide, stride=1 if stage == 0 else 2, shortcut="project")
        layers[f"layer{stage + 1}"] = nn.Sequential(first, *(BasicBlock(wide, wide) for _ in range(blocks - 1)))
        channels = wide
    layers |= OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
    return he_normal(SlimResNet(layers))
