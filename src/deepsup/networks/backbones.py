"""Classifiers of timm, torchvision and our own as backbones: a picture in, the maps of the stages out."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, final

from torch import Tensor, nn

from deepsup.errors import ConfigError
from deepsup.networks.dilation import check_dilation, dilate
from deepsup.networks.families import build_own
from deepsup.networks.shapes import Seen, run_on_meta, stride_of
from deepsup.networks.zoos import call, timm_model, unknown
from deepsup.specs import require

_FORMS = "timm:NAME, torchvision:NAME or deepsup:NAME"
SIDE = 256  # of the picture in dry runs: eight values along a side are left at stride 32


@dataclass(frozen=True)
class Stage:
    """One map that a backbone gives out: the layer that ends the stage, its channels, its stride against the picture."""

    layer: str
    channels: int
    stride: int


@final
class Trunk(nn.Module):
    """Layers of another network, which it runs one after the other, in place: `(N, C, H, W)` to the maps of `stages`.

    The layers keep the names that they had there, so trained weights fit.
    """

    def __init__(self, network: nn.Module, steps: Sequence[str], *, stages: Sequence[str]) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.stages = tuple(stages)
        for name in dict.fromkeys(step.partition(".")[0] for step in steps):
            child = network.get_submodule(name)
            inside = [step.split(".")[1] for step in steps if step.startswith(f"{name}.")]
            if inside:
                for unused in [key for key, _ in child.named_children() if key not in inside]:
                    delattr(child, unused)
            self.add_module(name, child)

    def forward(self, x: Tensor) -> list[Tensor]:  # (N, in_channels, H, W)
        maps = []
        for step in self.steps:
            x = self.get_submodule(step)(x)
            if step in self.stages:
                maps.append(x)
        return maps


def backbone(
    spec: str,
    *,
    in_channels: int = 3,
    output_stride: int = 32,
    dilation: str = "csail",
    pretrained: bool = False,
    options: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, tuple[Stage, ...]]:
    """The feature extractor that `spec` names, and its stages from shallow to deep.

    Example: `backbone("timm:resnet50s", output_stride=8)[1][-2] == Stage("layer3", 1024, 8)`.

    The module takes `(N, in_channels, H, W)` and returns a list with one map `(N, channels, H / stride, W / stride)` a
    stage, rounded as the convolutions round. Channels and strides are those of a dry run, never of a table.

    - "timm:NAME" is `timm.create_model(NAME, features_only=True, **options)`: timm says where its stages end.
    - "torchvision:NAME" are the layers of a torchvision classifier up to its pooling, if they run one after the other
      (ResNet, ResNeXt, RegNet, VGG, DenseNet, MobileNet, EfficientNet, ConvNeXt, ShuffleNet, GoogLeNet, ...); a stage
      ends before the map shrinks. The widening 1x1 convolution before the pooling of MobileNet and EfficientNet is the
      classifier's and is left out, as timm does it.

    - "deepsup:NAME" are the layers of one of our own classifiers in the same way (`resnet-18-slim`, `resnet-32`, ...).

    With `output_stride` below the network's own, its convolutions are dilated by `dilation` (see `dilate`); that
    is meant for networks of convolutions, not for transformers that have some.
    `pretrained` loads the default weights. Raises ConfigError for a network that there is not or whose stages cannot be
    had, MissingPackageError where the package is not installed.
    """
    source, _, name = spec.partition(":")
    if source not in _SOURCES or not name:
        raise ConfigError(f"backbone {spec!r} does not say where it comes from. Write {_FORMS}.")
    check_dilation(output_stride, dilation)
    network, ends, side = _SOURCES[source](name, in_channels=in_channels, pretrained=pretrained, options=options or {})
    what, shape = f"backbone {spec!r}", (1, in_channels, side, side)
    shapes = _map_shapes(network, shape, what)
    own = stride_of(shapes[-1], side)
    if output_stride < own:
        dilate(network, output_stride=output_stride, side=side, dilation=dilation, in_channels=in_channels, what=what)
        try:
            shapes = _map_shapes(network, shape, what)
        except ConfigError as error:  # branches of several strides, position embeddings
            raise ConfigError(
                f"{what} gives maps at stride {own} and has none at output_stride={output_stride}: dilated for that, it "
                "does not run any more. Choose a convolutional backbone of one path (timm:resnet50, ...), or ask for "
                f"output_stride={own}."
            ) from error
    stages = tuple(Stage(end, s[1], stride_of(s, side)) for end, s in zip(ends, shapes, strict=True))
    if stages[-1].stride > output_stride:
        raise ConfigError(
            f"{what} gives maps at stride {stages[-1].stride}, output_stride={output_stride} was asked: something other "
            f"than a layer shrinks them. Ask for output_stride={own}, or choose another backbone."
        )
    return network, stages


def _map_shapes(network: nn.Module, shape: tuple[int, ...], what: str) -> list[tuple[int, ...]]:
    shapes = [tuple(found.shape) for found in run_on_meta(network, shape, what=what)[1]]
    if any(len(s) != 4 or s[2] != s[3] for s in shapes):
        raise ConfigError(
            f"{what} gives out {shapes} for pictures of shape {shape}; maps (N, C, H, W) with the channels first are "
            "needed. Choose a convolutional network (timm:resnet50, timm:convnext_tiny, ...)."
        )
    return shapes


def _timm(
    name: str, *, in_channels: int, pretrained: bool, options: Mapping[str, Any]
) -> tuple[nn.Module, list[str], int]:
    timm, config = timm_model(name)
    arguments = {"features_only": True, "pretrained": pretrained, "in_chans": in_channels, **options}
    network = call(partial(timm.create_model, name), f"timm:{name}", arguments)
    fixed = config.input_size[-1] if config is not None and config.fixed_input_size else SIDE
    side = int(options.get("img_size", fixed))
    return network, _timm_ends(network, in_channels, side, f"backbone 'timm:{name}'"), side


def _timm_ends(network: Any, in_channels: int, side: int, what: str) -> list[str]:
    """The layers whose outputs are the maps that `network` returns."""
    calls, maps = run_on_meta(network, (1, in_channels, side, side), what=what)
    layers = dict(network.named_modules())
    gave = {name: seen.gave_id for name, seen in calls}
    last = {tensor: name for name, tensor in gave.items()}  # to give out a tensor: the outermost of those around it
    ends = []
    for layer, found in zip(network.feature_info.module_name(), maps, strict=True):
        # timm flattens sequences, which turns the dots into underscores, or puts the network into an attribute
        named = [name for name in (layer, layer.replace(".", "_"), f"model.{layer}") if name in layers]
        exact = [name for name in named if gave.get(name) == id(found)]
        end = next(iter([*exact, *([last[id(found)]] if id(found) in last else []), *named]), None)
        if end is None:
            raise ConfigError(
                f"no layer of {what} gives out the map that timm calls {layer!r}. Choose another backbone."
            )
        ends.append(end)
    return ends


def _torchvision(
    name: str, *, in_channels: int, pretrained: bool, options: Mapping[str, Any]
) -> tuple[nn.Module, list[str], int]:
    models = require("torchvision", purpose=f"backbone 'torchvision:{name}'").models
    classifiers = models.list_models(module=models)
    if name not in classifiers:
        listing = "torchvision.models.list_models(module=torchvision.models)"
        raise ConfigError(unknown(name, "torchvision", classifiers, listing=listing))
    if in_channels != 3:
        raise ConfigError(
            f"backbone 'torchvision:{name}' reads 3 channels, the data has {in_channels}. timm's take any number "
            "(timm:resnet50, say)."
        )
    arguments: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if name in {"googlenet", "inception_v3"} and not pretrained:
        arguments |= {"init_weights": True, "aux_logits": False}
    arguments.update(options)
    network = call(partial(models.get_model, name), f"torchvision:{name}", arguments)
    return _cut(network, f"torchvision:{name}", 3)


def _ours(
    name: str, *, in_channels: int, pretrained: bool, options: Mapping[str, Any]
) -> tuple[nn.Module, list[str], int]:
    if pretrained:
        raise ConfigError(f"backbone 'deepsup:{name}' has no trained weights. Set pretrained=False, or choose timm's.")
    return _cut(build_own(name, classes=1, in_channels=in_channels, options=options), f"deepsup:{name}", in_channels)


def _cut(network: nn.Module, spec: str, in_channels: int) -> tuple[nn.Module, list[str], int]:
    """What of a classifier runs before its pooling, its stages ending before the map shrinks."""
    calls = dict(run_on_meta(network, (1, in_channels, SIDE, SIDE), what=f"backbone {spec!r}")[0])
    steps = _chain(network, calls, spec)
    strides = [stride_of(calls[step].gave, SIDE) for step in steps]
    ends = [step for i, step in enumerate(steps) if strides[i] != (*strides, None)[i + 1]]
    return Trunk(network, steps, stages=ends), ends, SIDE


def _chain(network: nn.Module, calls: Mapping[str, Seen], spec: str) -> list[str]:
    """The layers that turn the picture into the last map, in the order in which they run, each reading the one before."""
    steps: list[str] = []
    for child, layer in network.named_children():
        seen = calls.get(child)
        if isinstance(layer, nn.AdaptiveAvgPool2d) or (seen and (len(seen.gave) != 4 or seen.gave[2:] == (1, 1))):
            break  # the pooling ends the maps
        steps += _steps(child, layer, calls)
    if steps and _is_for_the_classifier(network.get_submodule(steps[-1])):
        steps.pop()
    ran = len(steps) > 1 and all(step in calls for step in steps)
    if not ran or any(calls[step].read_id != calls[before].gave_id for before, step in pairwise(steps)):
        raise ConfigError(
            f"the layers of {spec!r} do not run one after the other, so its stages cannot be told apart. "
            f"{_OTHERWISE[spec.partition(':')[0]].format(spec.partition(':')[2])}"
        )
    return steps


def _steps(name: str, layer: nn.Module, calls: Mapping[str, Seen]) -> list[str]:
    """The layer itself, or what is in it where a sequence holds several stages."""
    if not isinstance(layer, nn.Sequential):
        return [name]
    inside = [f"{name}.{child}" for child, _ in layer.named_children()]
    strides = {stride_of(calls[step].gave, SIDE) for step in inside if step in calls}
    return inside if len(strides) > 1 else [name]


def _is_for_the_classifier(layer: nn.Module) -> bool:
    block = importlib.import_module("torchvision.ops").Conv2dNormActivation
    return isinstance(layer, block) and layer[0].kernel_size == (1, 1)


_OTHERWISE = {
    "torchvision": "timm may have it as a backbone: timm:{}.",
    "deepsup": "Choose deepsup:resnet-18-slim, say.",
}
_SOURCES = {"timm": _timm, "torchvision": _torchvision, "deepsup": _ours}
