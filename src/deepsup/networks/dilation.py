"""Finer maps from the same weights: convolutions that would shrink the map too far look further apart instead."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from deepsup.errors import ConfigError
from deepsup.networks.shapes import Seen, run_on_meta, stride_of

DILATIONS = ("csail", "semseg")
STRIDES = (4, 8, 16, 32)


def dilate(
    model: nn.Module,
    *,
    output_stride: int,
    side: int,
    dilation: str = "csail",
    in_channels: int = 3,
    what: str = "model",
) -> None:
    """Change the strides and dilations of `model`'s convolutions so that its maps end at `output_stride`.

    Example: `dilate(trunk, output_stride=8, side=256)` leaves a ResNet's layer1 and layer2 alone, and gives layer3 and
    layer4 no stride and the dilations 2 and 4. No parameter changes, and nothing is kept on the model.

    One dry run on a square picture of `side` pixels shows at which stride every convolution reads and gives out. Those
    that would give out a stride beyond `output_stride` lose theirs; those that read beyond it are dilated by as much.
    1x1 kernels lose their stride alone. What the kernel of a convolution that loses its stride gets `dilation` says:

    - "csail": the dilation for the stride at which it reads, half of what follows it gets. This is CSAIL's
      `_nostride_dilate`, torchvision's `replace_stride_with_dilation` and timm's `output_stride`. The values that the
      network would have given out without dilation are then all in the finer map, every second or fourth of it (but
      where it weighs channels by their mean over the map, as EfficientNet does).
    - "semseg": the dilation for the stride that it would have given out, as all that follow it. This is hszhao/semseg's
      PSPNet, in which every 3x3 convolution of layer3 is dilated by 2 and of layer4 by 4.

    Kernels that take patch after patch (ConvNeXt's 2x2 of stride 2) get zeros to the right and below, which keeps both
    the size and the values; timm puts half of them to the left and above, which in the last stage moves the map by one.
    Raises ConfigError for a stride that is none of 4, 8, 16 and 32, and where something other than a convolution would
    shrink the map beyond the limit: no pool is rewritten (VGG, DenseNet, ResNet-D), and the message names those there are.
    """
    check_dilation(output_stride, dilation)
    shape = (1, in_channels, side, side)
    calls, _ = run_on_meta(model, shape, what=what)
    layers = dict(model.named_modules())
    _check_pools(calls, layers, side, output_stride, what)
    convolutions = [(name, seen) for name, seen in calls if isinstance(layers[name], nn.Conv2d)]
    for name, seen in dict(convolutions).items():
        if len(seen.read) == len(seen.gave) == 4:
            _rewrite(model, name, stride_of(seen.read, side), limit=output_stride, dilation=dilation)


def check_dilation(output_stride: int, dilation: str) -> None:
    """Raise ConfigError for a stride or a dilation that there is not."""
    if isinstance(output_stride, bool) or not isinstance(output_stride, int) or output_stride not in STRIDES:
        raise ConfigError(f"output_stride={output_stride!r} must be one of {', '.join(map(str, STRIDES))}.")
    if dilation not in DILATIONS:
        raise ConfigError(f"there is no dilation {dilation!r}. There are: {', '.join(DILATIONS)}.")


def _rewrite(model: nn.Module, name: str, reads: int, *, limit: int, dilation: str) -> None:
    """Give one convolution that reads at stride `reads` of the network as it was its place in the dilated one."""
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    gives = reads * max(conv.stride)
    if gives <= limit or (max(conv.kernel_size) == 1 and max(conv.stride) == 1):
        return
    if conv.padding_mode != "zeros":
        raise ConfigError(
            f"layer {name!r} pads with {conv.padding_mode!r}; only convolutions that pad with zeros can be dilated."
        )
    strided = max(conv.stride) > 1
    rate = max(1, (gives if strided and dilation == "semseg" else reads) // limit)
    if strided:
        kept = max(1, limit // reads)
        if _is_patch(conv):
            parent, _, attribute = name.rpartition(".")
            conv = Patches(conv, missing=rate * (conv.kernel_size[0] - 1) + 1 - kept)
            setattr(model.get_submodule(parent), attribute, conv)
        conv.stride = (kept, kept)
    if rate > 1:
        conv.dilation = tuple(d * rate if k > 1 else d for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
        if not isinstance(conv.padding, str):
            conv.padding = tuple(p * rate for p in conv.padding)


def _is_patch(conv: nn.Conv2d) -> bool:
    """Whether the kernel takes one square patch after the other. A subclass pads in a way of its own."""
    k = conv.kernel_size
    return type(conv) is nn.Conv2d and k[0] > 1 and k == (k[0], k[0]) == conv.stride and conv.padding == (0, 0)


@final
class Patches(nn.Conv2d):
    """`conv`, with its parameters, on a map with `missing` zeros to the right and below, so that it keeps its size."""

    def __init__(self, conv: nn.Conv2d, *, missing: int) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels, 1, groups=conv.groups, bias=conv.bias is not None, device="meta"
        )
        self.kernel_size, self.missing = conv.kernel_size, missing
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (0, self.missing, 0, self.missing)))


def _check_pools(calls: list[tuple[str, Seen]], layers: dict[str, nn.Module], side: int, limit: int, what: str) -> None:
    found = [
        f"{name} ({type(layers[name]).__name__})"
        for name, seen in calls
        if not any(layers[name].children()) and not isinstance(layers[name], nn.Conv2d) and _shrinks(seen, side, limit)
    ]
    if found:
        strides = [stride_of(seen.gave, side) for _, seen in calls if len(seen.gave) == 4 and seen.gave[2:] != (1, 1)]
        raise ConfigError(
            f"{what} cannot give maps at stride {limit}: {', '.join(dict.fromkeys(found))} would shrink them further, "
            f"and only convolutions can be dilated. Ask for output_stride={max(strides)}, choose another "
            f"backbone, or let timm change it where it can: backbone_options={{'output_stride': {limit}}}."
        )


def _shrinks(seen: Seen, side: int, limit: int) -> bool:
    if len(seen.read) != 4 or len(seen.gave) != 4 or seen.gave[2:] == (1, 1):  # 1x1: of an attention over channels
        return False
    return seen.gave[2] < seen.read[2] and stride_of(seen.gave, side) > max(limit, stride_of(seen.read, side))
