"""From an activation to a map of class scores: the heads of branches in networks that predict maps.

Every head maps an activation (N, C, *places), one to three places, to scores (N, classes, *places) at the activation's
own resolution; the loss brings them and the labels to one size (module `losses.pixelwise`).
"""

from __future__ import annotations

from typing import Annotated

from torch import nn

from deepsup.errors import HeadError
from deepsup.features import Feature
from deepsup.heads.build_head import HEADS
from deepsup.heads.modules import ChannelsFirst, csail_initial
from deepsup.specs import BELOW_ONE, INDEX

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_DROP = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}


@HEADS.register
def fcn(
    feature: Feature,
    classes: int,
    *,
    width: int | None = None,
    layers: Annotated[int, INDEX] = 1,
    dropout: Annotated[float, BELOW_ONE] = 0.1,
) -> nn.Module:
    """The auxiliary head of PSPNet and of FCNs: `layers` times 3x3 convolution to `width`, batch normalisation, ReLU; then
    dropout of whole channels and a 1x1 convolution (Zhao et al. 2017, hszhao/semseg; mmsegmentation's FCNHead).

    `width` is a quarter of the channels unless said: PSPNet's 256 of 1024. The 3x3 convolutions have no bias.
    """
    front, places = _maps("fcn", feature)
    width = max(1, feature.channels // 4) if width is None else width
    body: list[nn.Module] = []
    for n in range(layers):
        body += _conv3(feature.channels if n == 0 else width, width, places)
    if dropout:
        body.append(_DROP[places](dropout))
    last = _CONV[places](width if layers else feature.channels, classes, 1)
    return nn.Sequential(*front, *body, last)


@HEADS.register
def c1(
    feature: Feature, classes: int, *, width: int | None = None, dropout: Annotated[float, BELOW_ONE] = 0.0
) -> nn.Module:
    """The auxiliary head of C1DeepSup: 3x3 convolution to `width`, batch normalisation, ReLU, 1x1 convolution
    (CSAILVision, mit_semseg/models/models.py); PPMDeepsup's has `dropout=0.1`.

    `width` is half of the channels unless said, as there on conv4: fc_dim/2 to fc_dim/4. Gives raw scores, and not their
    log-softmax. The original's fc_dim is written down by hand; here it is what the activation has. Begins as the whole
    decoder does there, with `csail_initial`.
    """
    width = max(1, feature.channels // 2) if width is None else width
    return csail_initial(fcn(feature, classes, width=width, dropout=dropout))


@HEADS.register
def conv1x1(feature: Feature, classes: int) -> nn.Module:
    """One 1x1 convolution with bias: the heads of FCN, HED, U-Net++ and nnU-Net."""
    front, places = _maps("conv1x1", feature)
    last = _CONV[places](feature.channels, classes, 1)
    return nn.Sequential(*front, last) if front else last


@HEADS.register
def tokenwise(feature: Feature, classes: int) -> nn.Module:
    """Layer normalisation and one linear layer at every token (N, L, C): scores (N, classes, L)."""
    if not feature.channels_last:
        raise HeadError(
            f"head 'tokenwise' reads tokens (N, L, C) or (N, H, W, C), but this activation is {feature} in layout "
            f"{feature.layout}. Use conv1x1, or pass layout= to plan if the layout was guessed wrong."
        )
    width = feature.channels
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes), ChannelsFirst())


@HEADS.register
def identity(feature: Feature, classes: int) -> nn.Module:
    """Nothing: the layer's output already is the scores, as that of a side output that the network has itself."""
    if feature.layout[:2] != "NC" or feature.channels != classes:
        raise HeadError(
            f"head 'identity' takes the activation for the scores of {classes} classes, (N, {classes}, ...), but it is "
            f"{feature} a sample in layout {feature.layout}. Choose the layer that gives scores, or the head conv1x1."
        )
    return nn.Identity()


def _conv3(channels: int, width: int, places: int) -> list[nn.Module]:
    return [_CONV[places](channels, width, 3, padding=1, bias=False), _NORM[places](width), nn.ReLU()]


def _maps(head: str, feature: Feature) -> tuple[list[nn.Module], int]:
    """What puts the channels first, and how many places a map has. Raises `HeadError` where it is no map."""
    if not feature.size:
        raise HeadError(
            f"head '{head}' reads sequences, maps (N, C, H, W), (N, H, W, C) or volumes, but this activation is "
            f"{feature} in layout {feature.layout}. Tap a layer that gives a map, or pass layout= to plan if the layout was "
            "guessed wrong."
        )
    return ([ChannelsFirst()] if feature.channels_last else []), len(feature.size)
