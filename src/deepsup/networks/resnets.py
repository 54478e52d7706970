"""Residual networks for small images: He et al., "Deep Residual Learning", CVPR 2016 (arXiv 1512.03385), section 4.2."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from deepsup.errors import ConfigError
from deepsup.networks.blocks import check_positive, he_normal, repeats
from deepsup.networks.families import family
from deepsup.networks.public_weights import read_tensors, take
from deepsup.specs import require

WIDTHS = (16, 32, 64)
WIDENING = {"basic": 1, "bottleneck": 4}  # what a block gives out, in widths
IMAGENET_DEPTHS = (18, 34, 50, 101, 152)


@final
class Subsample(nn.Module):
    """Every `stride`-th row and column, from the first on: the shape that a 3x3 convolution of that stride gives."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) to (N, C, h, w)
        return x[:, :, :: self.stride, :: self.stride]

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


@final
class Padded(nn.Module):
    """Shortcut without parameters (He et al.'s option A): shrink, then fill up with channels of zeros.

    They stand behind the others, or with `centred` half of them before, rounded down. How many channels are missing is
    read from `like`, the residual, when it runs: so the block stays right when its convolutions are rebuilt with other
    widths.
    """

    def __init__(self, shrink: nn.Module, *, centred: bool = False) -> None:
        super().__init__()
        self.shrink = shrink
        self.centred = centred

    def forward(self, x: Tensor, like: Tensor) -> Tensor:  # (N, C, H, W) and (N, width, h, w)
        x = self.shrink(x)
        missing = like.shape[1] - x.shape[1]
        before = missing // 2 if self.centred else 0
        return F.pad(x, (0, 0, 0, 0, before, missing - before))

    def extra_repr(self) -> str:
        return f"centred={self.centred}"


@final
class Projected(nn.Module):
    """Shortcut with parameters (He et al.'s option B): a 1x1 convolution and a normalisation."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:  # (N, C, H, W) to (N, width, h, w)
        return self.bn(self.conv(x))  # type: ignore[no-any-return]


@final
class Same(nn.Module):
    """Shortcut where nothing changes shape."""

    def forward(self, x: Tensor, like: Tensor) -> Tensor:  # (N, C, H, W)
        return x


SHORTCUTS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "subsample": lambda channels, width, stride: Padded(Subsample(stride)),
    # Rounded up, like the convolution beside it; on even sizes nothing is left over and this is DHM's AvgPool2d(2).
    "pool": lambda channels, width, stride: Padded(nn.AvgPool2d(stride, ceil_mode=True)),
    "centred": lambda channels, width, stride: Padded(Subsample(stride), centred=True),
    "project": Projected,
}
PUBLIC_NAMES = {  # of the layers in weights that others publish, and ours
    r"^compressible_|(?<=\.)compressible_": "",
    r"^(linear|classifier)\.": "fc.",
    r"\.(downsample|shortcut)\.0\.": ".shortcut.conv.",
    r"\.(downsample|shortcut)\.1\.": ".shortcut.bn.",
}


@final
class BasicBlock(nn.Module):
    """ReLU(residual + shortcut), the residual being two 3x3 convolutions with normalisation."""

    def __init__(self, channels: int, width: int, *, stride: int = 1, shortcut: str = "subsample") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        same = stride == 1 and channels == width
        self.shortcut = Same() if same else SHORTCUTS[shortcut](channels, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:  # (N, channels, H, W) to (N, width, h, w)
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.shortcut(x, residual))  # type: ignore[no-any-return]


@final
class BottleneckBlock(nn.Module):
    """ReLU(residual + shortcut), the residual being 1x1, 3x3 and 1x1 convolutions with normalisation; four times `width`."""

    def __init__(self, channels: int, width: int, *, stride: int = 1, shortcut: str = "project") -> None:
        super().__init__()
        wide = WIDENING["bottleneck"] * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        same = stride == 1 and channels == wide
        self.shortcut = Same() if same else SHORTCUTS[shortcut](channels, wide, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:  # (N, channels, H, W) to (N, 4 * width, h, w)
        residual = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        residual = self.bn3(self.conv3(residual))
        return self.relu3(residual + self.shortcut(x, residual))  # type: ignore[no-any-return]


BLOCKS: dict[str, Callable[..., nn.Module]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


@final
class CifarResNet(nn.Sequential):
    """What `resnet` builds: the layers run in the order of their names."""


@family("resnet-N", *(f"resnet-{depth}" for depth in (20, 32, 44, 56, 110, 1202)))
def resnet(
    depth: int,
    *,
    classes: int,
    in_channels: int = 3,
    shortcut: str | None = None,
    block: str = "basic",
    weights: str | Path | None = None,
) -> CifarResNet:
    """The residual network of `depth` = 6n+2 layers for CIFAR: three stages of n blocks, 16, 32 and 64 channels wide.

    Example: `resnet(32, classes=100)` has 5 blocks a stage.

    Layers are named conv1, bn1, relu1, layer1, layer2, layer3, avgpool, flatten, fc; each layerN is a sequence of
    blocks, and the first block of layer2 and layer3 has stride 2. Input `(N, in_channels, H, W)` of any size (32 in the
    paper), output `(N, classes)`. `shortcut` says what carries the signal past a block that changes its shape:

    - "subsample": every second pixel, and zeros behind its channels. Option A of the paper, its choice for CIFAR. The
      default, because the paper does not say where the zeros go and behind is the plain reading.
    - "centred": the same with half of the zeros before the channels and half behind: what akamaster's code does, and so
      what most public weights with option A were trained with. They load into the others just as well, and answer wrongly.
    - "pool": the mean of 2x2 pixels, and zeros behind; what DHM's released code does (Li and Chen 2020).
    - "project": 1x1 convolution and normalisation. Option B of the paper.

    `block="bottleneck"` is what ONE's code (Lan et al. 2018) and others call ResNet-110: as many blocks, but of three
    convolutions, four times as wide and with projections unless said otherwise, 164 layers.

    Initialised by `he_normal`, or with the `weights` of a file: safetensors, or the state dict that `torch.save` wrote
    (akamaster's *.th, say; only tensors are read). Wrappers' prefixes (`module.`) and usual other names (`linear`,
    `downsample.0`) become ours, and then everything has to fit. A file without projections does not tell where its zeros
    go, so `shortcut` must be said with it.

    Source: He et al. 2016, section 4.2; parameters as in their table 6. Raises ConfigError for another depth, shortcut or
    block, and where the shortcut of `weights` is not known; CheckpointError for weights that are not of this network.
    """
    n = repeats(depth, step=6, rest=2, network=f"resnet-{depth}")
    check_positive(classes=classes, in_channels=in_channels)
    if block not in BLOCKS:
        raise ConfigError(f"a resnet has no block {block!r}. It has: {', '.join(BLOCKS)}.")
    tensors = None if weights is None else read_tensors(weights, PUBLIC_NAMES)
    shortcut = _shortcut(shortcut, tensors, weights) or ("subsample" if block == "basic" else "project")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(WIDTHS[0]),
        relu1=nn.ReLU(),
    )
    channels = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        first = BLOCKS[block](channels, width, stride=1 if stage == 0 else 2, shortcut=shortcut)
        channels = WIDENING[block] * width
        layers[f"layer{stage + 1}"] = nn.Sequential(first, *(BLOCKS[block](channels, width) for _ in range(n - 1)))
    layers |= OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
    network = he_normal(CifarResNet(layers))
    if tensors is not None:
        take(network, tensors, str(weights), whose=f"resnet-{depth} of {classes} classes with shortcut={shortcut!r}")
    return network


def _shortcut(asked: str | None, tensors: Mapping[str, Tensor] | None, path: str | Path | None) -> str | None:
    """The shortcut that was asked for, or the one that the weights show; None where there are none and nothing was said."""
    if asked is not None and asked not in SHORTCUTS:
        raise ConfigError(f"a resnet has no shortcut {asked!r}. It has: {', '.join(SHORTCUTS)}.")
    projects = any(".shortcut." in name for name in tensors or ())
    if asked is None and tensors is not None and not projects:
        raise ConfigError(
            f"{path} has no projections, and nothing in it tells where its shortcuts put their zeros: it would load with any "
            "and answer wrongly with all but one. Say which: shortcut='centred' for akamaster's and most public weights, "
            "'subsample' for zeros behind, 'pool' for DHM's (model_options.shortcut=centred)."
        )
    return asked or ("project" if projects else None)


@family("resnet-N-3x3", "resnet-18-3x3", "resnet-50-3x3")
def resnet_3x3(depth: int, *, classes: int, in_channels: int = 3) -> nn.Module:
    """torchvision's ResNet whose stem is one 3x3 convolution of stride 1, without the pooling: for 32x32 pixels.

    Example: `resnet_3x3(18, classes=100)` has 11,220,132 parameters.

    What BYOT (Zhang et al. 2019), contrastive deep supervision (Zhang et al. 2022) and most CIFAR code call ResNet-18.
    Layers are named as torchvision's. Raises ConfigError for a depth that there is not.
    """
    check_positive(classes=classes, in_channels=in_channels)
    if depth not in IMAGENET_DEPTHS:
        raise ConfigError(
            f"'resnet-{depth}-3x3' cannot be built: there are the depths {', '.join(map(str, IMAGENET_DEPTHS))}."
        )
    models = require("torchvision.models", purpose=f"'resnet-{depth}-3x3'")
    network: nn.Module = getattr(models, f"resnet{depth}")(weights=None, num_classes=classes)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network
