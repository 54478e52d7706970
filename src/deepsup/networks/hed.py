"""HED, holistically-nested edge detection: Xie and Tu, ICCV 2015 (arXiv 1504.06375)."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup.errors import ConfigError
from deepsup.networks.blocks import check_positive
from deepsup.networks.families import family
from deepsup.networks.levels import initialise
from deepsup.specs import FLAG, require

GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # VGG-16: channels and convolutions before each pooling
SIDES = len(GROUPS)
PADDING = 35  # of the released network's first convolution
RATES = {"conv5": 100.0, "side": 0.01, "fuse": 0.001}  # lr_mult of weights in the released prototxt; of others 1
CROPS = (
    34,
    35,
    36,
    38,
    42,
)  # where Caffe's Crop finds the image in each enlarged map, by coordinates through all layers


@family("hed")
def hed(
    *, classes: int = 1, in_channels: int = 3, pretrained: bool = False, released: Annotated[bool, FLAG] = False
) -> Hed:
    """HED on VGG-16: (N, in_channels, H, W) to the fused scores (N, classes, H, W), before the sigmoid.

    Example: `hed()` has 14,716,171 parameters, 14,714,688 of them VGG-16's convolutions.

    Layers: conv1_1, relu1_1, ..., relu5_3 and pool1 to pool4; side1 to side5, 1x1 convolutions that read relu1_2,
    relu2_2, relu3_3, relu4_3 and relu5_3 and give scores (N, classes, h, w) of their own resolution, strides 1 to 16;
    fuse. The side scores are enlarged by a fixed bilinear interpolation to the image, and `fuse`, a 1x1 convolution whose
    weights begin at 0.2, weighs the five. With several classes each class is fused from its own five scores only.
    `model.sides` are side1 ... side5, which the paper supervises as they are; `model.stages` the layers they read. A side
    of the image must be at least 16.

    `pretrained` takes the trunk from torchvision's VGG-16 as trained on ImageNet, as the authors began from one; it needs
    3 channels. Otherwise drawn by `initialise` of `deepsup.networks.levels`. The sides begin at 0, as in the release,
    which names no filler for them (Caffe's is then a constant 0; from memory).

    Without `released` every convolution keeps its size by a padding of 1, so that nothing is to be cut, and borders are seen
    by fewer values. `released` is s9xie/hed's train_val.prototxt, of the same weights: the image is padded by 35 pixels,
    poolings count up where sizes are odd, transposed convolutions of fixed bilinear kernels enlarge (4 to 32 wide, strides 2
    to 16, unpadded), and each enlarged map is cut to the image, from row and column 34, 35, 36, 38 and 42. `model.sides` are
    then crop1 ... crop5, as the release supervises them. Of any size from 1 on. Raises ConfigError for counts that are none.
    """
    check_positive(classes=classes, in_channels=in_channels)
    if pretrained and in_channels != 3:
        raise ConfigError(f"the trained VGG-16 reads 3 channels, the data has {in_channels}. Take pretrained=False.")
    network = Hed(classes, in_channels, released=released)
    if pretrained:
        _take_vgg(network)
    return network


@final
class Hed(nn.Module):
    """What `hed` builds."""

    def __init__(self, classes: int, in_channels: int, *, released: bool = False) -> None:
        super().__init__()
        channels = in_channels
        for group, (width, count) in enumerate(GROUPS, 1):
            if group > 1:
                self.add_module(f"pool{group - 1}", nn.MaxPool2d(2, ceil_mode=released))
            for place in range(1, count + 1):
                padding = PADDING if released and group == place == 1 else 1
                self.add_module(f"conv{group}_{place}", nn.Conv2d(channels, width, 3, padding=padding))
                self.add_module(f"relu{group}_{place}", nn.ReLU())  # not in place: a tap may read the convolution
                channels = width
        self.trunk = tuple(name for name, _ in self.named_children())
        self.stages = tuple(f"relu{group}_{count}" for group, (_, count) in enumerate(GROUPS, 1))
        for side, (width, _) in enumerate(GROUPS, 1):
            self.add_module(f"side{side}", nn.Conv2d(width, classes, 1))
        self.levels: tuple[str, ...] = ()  # nothing grows back step by step
        self.scored = tuple(f"side{side}" for side in range(1, SIDES + 1))
        self.cropped = tuple(f"crop{side}" for side in range(1, SIDES + 1)) if released else ()
        for place, name in enumerate(self.cropped):
            self.add_module(name, Cropped(2**place, CROPS[place]))
        self.sides = self.cropped or self.scored
        self.fuse = nn.Conv2d(SIDES * classes, classes, 1, groups=classes)
        self.released_rates = {
            name: rate for name, _ in self.named_children() for start, rate in RATES.items() if name.startswith(start)
        }
        initialise(self)
        for name in self.scored:
            nn.init.zeros_(self.get_parameter(f"{name}.weight"))
        nn.init.constant_(self.fuse.weight, 1 / SIDES)

    def forward(self, image: Tensor) -> Tensor:  # (N, in_channels, H, W) to (N, classes, H, W)
        x, size = image, image.shape[-2:]
        scores: list[Tensor] = []
        for name in self.trunk:
            x = self.get_submodule(name)(x)
            if name in self.stages:
                place = len(scores)
                side = self.get_submodule(self.scored[place])(x)
                if self.cropped:
                    scores.append(self.get_submodule(self.cropped[place])(side, size[0], size[1]))
                else:
                    scores.append(F.interpolate(side, size=size, mode="bilinear", align_corners=False))
        return self.fuse(torch.stack(scores, 2).flatten(1, 2))  # type: ignore[no-any-return]  # a class's five together


@final
class Cropped(nn.Module):
    """Scores (N, C, h, w) enlarged `factor` times by a fixed bilinear kernel, and the image's (H, W) cut out from `first` on."""

    def __init__(self, factor: int, first: int) -> None:
        super().__init__()
        self.factor, self.first = factor, first
        across = 1 - (torch.arange(2.0 * factor) - factor + 0.5).abs() / factor
        self.register_buffer("kernel", torch.outer(across, across)[None, None], persistent=False)

    def forward(self, scores: Tensor, height: int, width: int) -> Tensor:
        if self.factor > 1:
            kernel = self.get_buffer("kernel").to(scores.dtype).expand(scores.shape[1], 1, -1, -1)
            scores = F.conv_transpose2d(scores, kernel, stride=self.factor, groups=scores.shape[1])
        return scores[..., self.first : self.first + height, self.first : self.first + width]


def _take_vgg(network: Hed) -> None:
    """Copy the convolutions of torchvision's trained VGG-16, which come in the same order."""
    models = require("torchvision.models", purpose="the trained VGG-16")
    trained = [layer for layer in models.vgg16(weights="DEFAULT").features if isinstance(layer, nn.Conv2d)]
    names = [name for name in network.trunk if name.startswith("conv")]
    for name, layer in zip(names, trained, strict=True):
        network.get_submodule(name).load_state_dict(layer.state_dict())
