"""From an activation to class scores: one linear layer, published classifiers, a network of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from torch import nn

from deepsup.errors import HeadError
from deepsup.features import Feature
from deepsup.heads.build_head import HEADS, head
from deepsup.heads.modules import (
    Attention,
    First,
    Mean,
    MixedPool,
    Pooling,
    Scored,
    chain_shape,
    channels_first,
    filled,
    initialised,
    pooled,
    separable_chain,
)
from deepsup.specs import BELOW_ONE, FLAG, LATER, STEPS, one_of


@head(light=True)
def linear(
    feature: Feature,
    classes: int,
    *,
    start: Annotated[str, one_of("usual", "released")] = "usual",
    normalised: Annotated[bool, FLAG] = False,
) -> nn.Module:
    """Flatten and one linear layer, the companion classifier of DSN (Lee et al. 2015); needs a fixed input size.

    `start="released"` draws the weights as Caffe's xavier filler does, evenly from +-sqrt(3 / inputs), with biases of 0.
    `normalised` maps (N, C, H, W) go through batch normalisation without parameters first, channel by channel.
    """
    width = feature.channels
    for n in feature.size:
        width *= n
    front = [*channels_first("linear", feature), nn.BatchNorm2d(feature.channels, affine=False)] if normalised else []
    flat = nn.Sequential(*front, nn.Flatten(), nn.Linear(width, classes))
    return filled(flat, "xavier", biases=(0,)) if start == "released" else flat


@head(light=True)
def pool(feature: Feature, classes: int) -> nn.Module:
    """Global average pooling and one linear layer; any input size."""
    return Pooling(*pooled(feature), nn.Linear(feature.channels, classes))


@head(light=True)
def token(feature: Feature, classes: int, *, take: str = "mean") -> nn.Module:
    """Layer normalisation, the mean of all tokens (or `take="first"`, the class token), one linear layer."""
    if feature.layout not in ("NLC", "NHWC"):
        raise HeadError(
            f"head 'token' reads tokens (N, L, C) or (N, H, W, C), but this activation is {feature} in layout "
            f"{feature.layout}. Use 'pool' or 'linear', or pass layout= to plan if the layout was guessed wrong."
        )
    if take not in ("mean", "first") or (take == "first" and feature.layout == "NHWC"):
        raise HeadError(f"head 'token' takes 'mean', or 'first' where there is a token axis; asked for {take!r}.")
    gather = First() if take == "first" else Mean(*feature.places)
    return Pooling(nn.LayerNorm(feature.channels), gather, nn.Linear(feature.channels, classes))


@head(large=True)
def cnds(
    feature: Feature,
    classes: int,
    *,
    width: int = 64,
    hidden: int = 1024,
    dropout: Annotated[float, BELOW_ONE] = 0.5,
    ceil: bool = True,
    start: Annotated[str, one_of("usual", "released")] = "usual",
) -> nn.Module:
    """The branch of CNDS as released (Wang et al. 2015, train_val.prototxt): average pool 5/2, 1x1 convolution to
    `width` without activation, two fully connected layers of `hidden` with ReLU and dropout, one plain one.

    The pool rounds up, as Caffe's do: 13x13 from the 28x28 of CNDS-8, windows at the border being averages of what they
    hold; `ceil=False` rounds down. On maps smaller than 5 it covers the whole map. `start="released"` draws all weights from
    N(0, 0.01²), with biases of 0.1, 1, 1 and 0. Needs a fixed input size.
    """
    front = channels_first("cnds", feature)
    kernel = [min(5, n) for n in feature.size]
    left = [(n - k + ceil) // 2 + 1 for n, k in zip(feature.size, kernel, strict=True)]
    branch = nn.Sequential(
        *front,
        nn.AvgPool2d((kernel[0], kernel[1]), stride=2, ceil_mode=ceil),
        nn.Conv2d(feature.channels, width, 1),
        nn.Flatten(),
        nn.Linear(width * left[0] * left[1], hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )
    return filled(branch, "gaussian", biases=(0.1, 1, 1, 0)) if start == "released" else branch


@head(large=True)
def googlenet(
    feature: Feature,
    classes: int,
    *,
    bn: bool = False,
    pooling: str = "4x4",
    width: int = 128,
    hidden: int = 1024,
    dropout: Annotated[float, BELOW_ONE] = 0.7,
) -> nn.Module:
    """The auxiliary classifier of GoogLeNet (Szegedy et al. 2015, sec. 5): average pool, 1x1 convolution to `width`, ReLU,
    a fully connected layer of `hidden`, ReLU, dropout, and one that scores.

    `pooling="4x4"` averages to at most 4x4 whatever the size of the map, as torchvision does; `pooling="5/3"` is the
    paper's (5x5, stride 3), which makes 4x4 of the paper's 14x14. `bn=True` normalises after the convolution, as
    Inception-v3 and torchvision do (+0.4 % there, Szegedy et al. 2016). Needs a fixed input size.
    """
    front = channels_first("googlenet", feature)
    if pooling not in ("4x4", "5/3"):
        raise HeadError(f"head 'googlenet' has no pooling {pooling!r}. Choose '4x4' or '5/3'.")
    rows, columns = feature.size
    if pooling == "4x4":
        height, wide = min(4, rows), min(4, columns)
        pool: nn.Module = nn.AdaptiveAvgPool2d((height, wide))
    elif min(feature.size) < 5:
        raise HeadError(
            f"head 'googlenet' with pooling='5/3' needs maps of at least 5x5; this one is {rows}x{columns}."
        )
    else:
        height, wide = (rows - 5) // 3 + 1, (columns - 5) // 3 + 1
        pool = nn.AvgPool2d(5, stride=3)
    return nn.Sequential(
        *front,
        pool,
        nn.Conv2d(feature.channels, width, 1, bias=not bn),
        *([nn.BatchNorm2d(width, eps=0.001)] if bn else []),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * height * wide, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )


@HEADS.register
def mixed(feature: Feature, classes: int) -> nn.Module:
    """The internal classifier of Shallow-Deep Networks (Kaya et al. 2019): a learned mix of maximum and average pooling
    to about 4x4 (windows of a quarter of the map), one linear layer. Smaller maps are not pooled. Needs a fixed size.
    """
    front = channels_first("mixed", feature)
    rows, columns = feature.size
    kernel = max(1, rows // 4), max(1, columns // 4)
    windows = [MixedPool(kernel)] if max(feature.size) >= 4 else []
    width = feature.channels * (rows // kernel[0]) * (columns // kernel[1])
    return nn.Sequential(*front, *windows, nn.Flatten(), nn.Linear(width, classes))


@head(fitted=True)
def bottleneck(
    feature: Feature, classes: int, *, channels: int | None = None, steps: Annotated[int | None, STEPS] = None
) -> nn.Module:
    """The branch of BYOT (Zhang et al. 2019): 1x1 convolution to a quarter of `channels`, one of 2^steps x 2^steps with
    that stride, 1x1 to `channels`, each with batch normalisation and ReLU; global average pool, one linear layer.

    Gives `{"scores", "feature"}`, the feature being the pooled vector (N, channels), to be held against the deepest one.
    `channels` and `steps` lead to the deepest feature's; unless said, the map is halved until it is below 8, the
    channels doubled each time, which fits ResNets on CIFAR (4x4) and ImageNet (7x7).
    """
    front = channels_first("bottleneck", feature)
    channels, steps = chain_shape("bottleneck", feature, channels, steps)
    middle = max(1, channels // 4)
    body: list[nn.Module] = []
    for a, b, kernel in ((feature.channels, middle, 1), (middle, middle, 2**steps), (middle, channels, 1)):
        body += [nn.Conv2d(a, b, kernel, stride=kernel), nn.BatchNorm2d(b), nn.ReLU()]
    return initialised(Scored(nn.Sequential(*front, *body, Mean(2, 3)), channels, classes))


@head(fitted=True)
def sepconv(
    feature: Feature,
    classes: int,
    *,
    channels: int | None = None,
    steps: Annotated[int | None, STEPS] = None,
    attention: bool = False,
    adapted: bool = False,
) -> nn.Module:
    """The branch of BYOT's journal version (Zhang et al. 2021, as released): `steps` times two separable 3x3 convolutions
    that halve the map and widen it to `channels`; global average pool, one linear layer.

    Gives `{"scores", "feature"}` and has the options of `bottleneck`. With `attention` the map is first multiplied by
    the released attention of its own; with `adapted` the feature went through a linear layer, which the scores do not read.
    """
    front = channels_first("sepconv", feature)
    channels, steps = chain_shape("sepconv", feature, channels, steps)
    gate = [Attention(feature.channels)] if attention else []
    chain = [*front, *gate, *separable_chain(feature.channels, channels, steps), Mean(2, 3)]
    return initialised(Scored(nn.Sequential(*chain), channels, classes, adapted=adapted))


@head(whole=True, as_model=True)
def network(
    feature: Feature, classes: int, *, name: str = "timm:resnet18", options: Mapping[str, object] | None = None
) -> nn.Module:
    """A whole network of its own, the peer of Deep Mutual Learning (Zhang et al. 2018); reads images at the layer `input`.

    `name` and `options` are those of `deepsup.networks.build`, for instance `network(name='deepsup:plain-12')`.
    """
    front = channels_first("network", feature)
    # When it is asked for: networks need timm and torchvision, and this file only torch.
    built: nn.Module = LATER["networks"]().build(
        name, classes=classes, in_channels=feature.channels, size=feature.size[0], options=options
    )
    return nn.Sequential(*front, built) if front else built
