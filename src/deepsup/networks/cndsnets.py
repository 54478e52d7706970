"""The networks of CNDS, too deep in 2015 for plain Gaussian weights: Wang et al. 2015 (arXiv 1505.02496)."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

import torch
from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks.blocks import check_positive, check_share, gaussian
from deepsup.networks.families import family
from deepsup.networks.shapes import run_on_meta

STD = 0.01
WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = 4096
GROUPS = {8: (1, 1, 2, 2, 2), 13: (2, 2, 3, 3, 3)}  # convolutions before each pooling
BRANCH_LAYERS = {8: ("relu3_2",), 13: ("relu2_2", "relu3_3", "relu4_3")}  # after convolution 4; after 4, 7 and 10
BIASES = ("released", "zero")


@final
class CndsNet(nn.Sequential):
    """What `cnds_net` builds: the layers run in the order of their names."""


@family("cnds-N", "cnds-8", "cnds-13")
def cnds_net(
    convolutions: int,
    *,
    classes: int,
    in_channels: int = 3,
    size: int = 227,
    dropout: float = 0.5,
    biases: str = "released",
) -> CndsNet:
    """CNDS-8 or CNDS-13: 8 or 13 convolutions with ReLU in five groups, max-pooling after each, three linear layers.

    Example: `cnds_net(8, classes=205)` is the network of the release for MIT Places, on 227x227 pixels.

    Layers are named conv1, relu1, pool1, ..., conv3_1, relu3_1, ..., flatten, fc6, relu6, drop6, fc7, relu7, drop7,
    fc8: a group of one convolution is called by its number alone. The first convolution is 7x7 with stride 2 and
    padding 1, the others 3x3; poolings round up, as Caffe's do. Input `(N, in_channels, size, size)`, output
    `(N, classes)`; fc6 takes what is left of `size` (512x4x4 of 227 and of 224), so the size is fixed once built.
    `dropout` in [0, 1). CNDS puts its branches behind the ReLU of the 4th convolution, and in CNDS-13 behind those of
    the 4th, 7th and 10th: `BRANCH_LAYERS`.

    Weights from N(0, 0.01²). Biases begin as released, 0.5 in the first convolution, 0.1 in the others, 1 in fc6 and
    fc7, 0 in fc8; `biases="zero"` makes them all 0.

    Source of CNDS-8: train_val.prototxt of the authors' release (lwwang/Places_CNDS_model). CNDS-13 was not released.
    What is built here is a choice: VGG-16's groups of 2, 2, 3, 3, 3 convolutions, in which the 4th, 7th and 10th, where
    the paper puts branches, are each the last before a pooling, as the 4th is in CNDS-8; with CNDS-8's first
    convolution, poolings, widths and linear layers. Raises ConfigError for another number of convolutions or biases.
    """
    if convolutions not in GROUPS:
        raise ConfigError(f"CNDS has networks of 8 and of 13 convolutions, none of {convolutions!r}: cnds-8, cnds-13.")
    if biases not in BIASES:
        raise ConfigError(f"biases={biases!r} must be one of {', '.join(BIASES)}.")
    check_positive(classes=classes, in_channels=in_channels, size=size)
    check_share(dropout=dropout)
    layers = _convolutions(GROUPS[convolutions], in_channels)
    left = _values_left(layers, in_channels, size)
    layers["flatten"] = nn.Flatten()
    for number, (inputs, outputs) in enumerate(((left, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, classes)), 6):
        layers[f"fc{number}"] = nn.Linear(inputs, outputs)
        if number < 8:
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"drop{number}"] = nn.Dropout(dropout)
    network = gaussian(CndsNet(layers), std=STD)
    if biases == "released":
        _bias_as_released(network)
    return network


def _convolutions(groups: tuple[int, ...], in_channels: int) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_channels
    for group, (count, width) in enumerate(zip(groups, WIDTHS, strict=True), 1):
        for position in range(1, count + 1):
            name = f"{group}" if count == 1 else f"{group}_{position}"
            first = not layers
            layers[f"conv{name}"] = nn.Conv2d(channels, width, 7 if first else 3, stride=2 if first else 1, padding=1)
            layers[f"relu{name}"] = nn.ReLU()  # not in place: a tap may read the convolution's own output
            channels = width
        layers[f"pool{group}"] = nn.MaxPool2d(3 if group == 1 else 2, stride=2, ceil_mode=True)
    return layers


def _values_left(layers: OrderedDict[str, nn.Module], in_channels: int, size: int) -> int:
    """How many values an image of `size` leaves behind the last pooling."""
    try:
        output = run_on_meta(nn.Sequential(layers), (1, in_channels, size, size), what="CNDS")[1]
    except ConfigError:
        raise ConfigError(f"an image of {size}x{size} is too small for this network; CNDS read 227x227.") from None
    return int(output.numel())


@torch.no_grad()
def _bias_as_released(network: CndsNet) -> None:
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    for position, convolution in enumerate(convolutions):
        if convolution.bias is not None:
            convolution.bias.fill_(0.1 if position else 0.5)
    for name in ("fc6", "fc7"):
        network.get_parameter(f"{name}.bias").fill_(1.0)
