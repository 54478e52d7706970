"""What heads are made of: poolings, layouts, convolutional chains, and the module that gives scores and a feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup.errors import HeadError
from deepsup.features import Feature

LAST_SIZE = 8  # published nets end in maps of 4 to 7: a chain halves until the shorter side is below this


class Mean(nn.Module):
    """Mean over the axes `dims` of the activation."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Of a sequence, `mask` (N, L) says which places there are."""
        if mask is None or len(self.dims) != 1:
            return x.mean(self.dims)
        there = fitted(mask, x.shape[self.dims[0]]).unsqueeze(-1 if self.dims == (1,) else 1)
        # What is not there may be anything, infinite included.
        return torch.where(there, x, 0.0).sum(self.dims) / there.sum(self.dims).clamp(min=1).to(x.dtype)

    def extra_repr(self) -> str:
        return f"dims={self.dims}"


class First(nn.Module):
    """The first token: the class token of vision transformers. With a mask (N, L) the first that is there."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # (N, L, C) -> (N, C)
        if mask is None:
            return x[:, 0]
        first = fitted(mask, x.shape[1]).to(torch.int8).argmax(1)
        return x[torch.arange(len(x), device=x.device), first]


class Pooling(nn.Sequential):
    """Layers one after the other, of which those that pool may be told which places of a sequence there are."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x, mask) if isinstance(layer, (Mean, First)) else layer(x)
        return x


class ChannelsFirst(nn.Module):
    """(N, *places, C) -> (N, C, *places)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1)


class MixedPool(nn.Module):
    """alpha * maximum + (1 - alpha) * mean over windows of `kernel`, with alpha learned (Kaya et al. 2019)."""

    def __init__(self, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.kernel = kernel
        self.alpha = nn.Parameter(torch.rand(1))

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H // kernel[0], W // kernel[1])
        return self.alpha * F.max_pool2d(x, self.kernel) + (1 - self.alpha) * F.avg_pool2d(x, self.kernel)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}"


class GateNorm(nn.BatchNorm1d):
    """Batch normalisation of (N, C) that normalises one lone sample in training by the running statistics.

    The last batch of an epoch may hold one, which has no variance of its own; `nn.BatchNorm1d` raises there.
    """

    def forward(self, x: Tensor) -> Tensor:  # (N, C)
        if self.training and x.shape[0] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class Scored(nn.Module):
    """`body` to a vector a sample, one linear layer on it; gives both: `{"scores": (N, C), "feature": (N, width)}`.

    With `adapted` the feature that is given out went through a linear layer of its own, which the scores do not read.
    """

    def __init__(self, body: nn.Module, width: int, classes: int, *, adapted: bool = False) -> None:
        super().__init__()
        self.body = body
        self.fc = nn.Linear(width, classes)
        self.adaptation = nn.Linear(width, width) if adapted else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        feature = self.body(x)
        # before the scores: what runs last is taken for what makes them
        shown = feature if self.adaptation is None else self.adaptation(feature)
        return {"scores": self.fc(feature), "feature": shown}


class Attention(nn.Module):
    """A map times a number in (0, 1) a place and channel: of a separable pair at half the size, enlarged, a sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pair = separable_pair(width, width, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H, W)
        seen = F.interpolate(self.pair(x), x.shape[2:], mode="bilinear", align_corners=False)
        return x * seen.sigmoid()


def fitted(
    mask: Tensor,  # (N, L), bool
    length: int,
) -> Tensor:
    """The mask for a sequence of `length`: of a shorter one, as strided layers leave it, the places in the middle of its steps.

    Raises `HeadError` for a longer one, of which nobody knows what stands in the rest.
    """
    given = mask.shape[1]
    if length > given:
        raise HeadError(
            f"the model is told which of {given} places are there, and this layer gives out {length}: nobody says what the "
            "others are. Choose a head that does not pool, such as token(take='first'), or another layer."
        )
    steps = (2 * torch.arange(length, device=mask.device) + 1) * given // (2 * length)
    return mask if length == given else mask[:, steps]


def pooled(feature: Feature) -> list[nn.Module]:
    """What takes the mean over all places: nothing where there are none."""
    return [Mean(*feature.places)] if feature.size else []


def channels_first(head: str, feature: Feature) -> list[nn.Module]:
    """What makes an activation (N, C, H, W): nothing, or a `ChannelsFirst`. Raises `HeadError` where it is no map."""
    if feature.layout not in ("NCHW", "NHWC"):
        raise HeadError(
            f"head '{head}' reads maps (N, C, H, W) or (N, H, W, C), but this activation is {feature} in layout "
            f"{feature.layout}. Use 'token' or 'pool' here."
        )
    return [ChannelsFirst()] if feature.channels_last else []


def chain_shape(head: str, feature: Feature, channels: int | None, steps: int | None) -> tuple[int, int]:
    """Channels and halvings of a chain down to the size of the deepest feature.

    Unless said: it halves until the shorter side is below 8, and doubles the channels each time, as ResNets do (from
    32x32 to 4x4 on CIFAR, from 56x56 to 7x7 on ImageNet). Raises `HeadError` for numbers that cannot be.
    """
    shortest = min(feature.size)
    if steps is None:
        steps = max(0, (shortest // LAST_SIZE).bit_length())
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0 or 2**steps > shortest:
        raise HeadError(
            f"head '{head}' halves a map of {'x'.join(map(str, feature.size))} at least 0 and at most "
            f"{shortest.bit_length() - 1} times; asked for steps={steps!r}."
        )
    width = feature.channels * 2**steps if channels is None else channels
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise HeadError(
            f"head '{head}' needs a whole number of channels of at least 1; asked for channels={channels!r}."
        )
    return width, steps


def separable_chain(width: int, channels: int, steps: int) -> list[nn.Module]:
    """`steps` separable pairs that halve the map each, from `width` channels to `channels` in equal ratios.

    Without a step there is one pair that keeps the size, or nothing where the channels fit already.
    """
    if steps == 0:
        return [] if width == channels else [separable_pair(width, channels, stride=1)]
    widths = [width, *(round(width * (channels / width) ** (i / steps)) for i in range(1, steps)), channels]
    return [separable_pair(a, b, stride=2) for a, b in pairwise(widths)]


def separable_pair(width: int, channels: int, *, stride: int) -> nn.Module:
    """Twice a depthwise 3x3 and a 1x1 convolution with batch normalisation and ReLU; the first has the stride."""

    def separable(out: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        ]

    return nn.Sequential(*separable(width, stride), *separable(channels, 1))


def initialised(module: nn.Module) -> nn.Module:
    """`module` with its convolutions drawn as He et al. 2015 draw them (normal, fan out), like the nets around it."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return module


GAUSSIAN = 0.01  # the standard deviation of Caffe's example networks


@torch.no_grad()
def filled(module: nn.Module, filler: str, *, biases: Sequence[float]) -> nn.Module:
    """`module` with its convolutions and linear layers begun as Caffe's fillers do, their biases layer by layer.

    "gaussian" draws from N(0, 0.01²), "xavier" evenly from +-sqrt(3 / fan_in), which is Caffe's reading of it.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer, bias in zip(layers, biases, strict=True):
        if filler == "gaussian":
            nn.init.normal_(layer.weight, std=GAUSSIAN)
        else:
            bound = math.sqrt(3 / layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, bias)
    return module


@torch.no_grad()
def csail_initial(module: nn.Module) -> nn.Module:
    """`module` as CSAIL's code begins its decoders: convolutions from N(0, 2 / fan_in), He et al. 2015, normalisations of
    scale 1 and shift 1e-4.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.constant_(layer.bias, 1e-4)
    return module
