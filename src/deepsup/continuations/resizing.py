"""Give the layers of a graph the channel counts that arrive at them."""

from __future__ import annotations

import operator
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..features import Feature
from .cutting import Point

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_NO_SHORTCUT = (
    "A shortcut that adds its input unchanged needs the width of that input: tap the end of a stage, behind which the next "
    "block changes the width anyway, or ask for width=1."
)


def scaled(count: int, width: float, *, multiple: int = 1) -> int:
    """`count` channels times `width`, as the nearest multiple of `multiple` that is not 0; a lone one stays."""
    return count if count == 1 else max(1, round(count * width / multiple)) * multiple


@final
class Resizing:
    """One run of a graph, without memory, in which every layer is given the channel counts that arrive at it.

    `width` multiplies the outputs of every layer but `classifier`, which gets `classes`. Parameters on the way are
    replaced by empty ones of the new shape; `values` says of those that hold one number a channel and belong to no
    layer of PyTorch's (ConvNeXt's layer scale) what they held, and learns what the new ones are to hold.
    """

    def __init__(self, point: Point, values: dict[Tensor, Tensor], *, width: float, classifier: str, classes: int) -> None:
        self.point = point
        self.values = values
        self.width = width
        self.classifier = classifier
        self.classes = classes
        self.done: set[str] = set()

    def run(self, rest: fx.GraphModule, feature: Feature) -> tuple[int, ...]:
        """The shape of what `rest` gives out for two activations like `feature`. Raises `ContinuationError`."""
        dtype = next((p.dtype for p in rest.parameters()), None)
        seen: dict[fx.Node, Any] = {}
        with torch.no_grad():
            for node in rest.graph.nodes:
                if node.op == "placeholder":
                    seen[node] = torch.zeros(2, *feature.shape, dtype=dtype, device="meta")
                    continue
                args = map_arg(node.args, seen.__getitem__)
                kwargs = map_arg(node.kwargs, seen.__getitem__)
                if node.op == "output":
                    found: Any = args[0]
                    return tuple(found.shape)
                seen[node] = self._step(rest, node, args, kwargs)
        raise AssertionError("a graph ends with its output")

    def _step(self, rest: fx.GraphModule, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        if node.op == "get_attr":
            return self._attribute(rest, target)
        if node.op == "call_module":
            layer = rest.get_submodule(target)
            if target not in self.done:
                self.done.add(target)
                self._fit(layer, target, args[0] if args else None)
        try:
            if node.op == "call_module":
                return layer(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            return target(*args, **kwargs)
        except Exception as error:
            inside = f"'{node.meta.get('layer') or target}'"
            tensors = [a for a in args if isinstance(a, Tensor)]
            shapes = " and ".join("x".join(map(str, t.shape[1:])) for t in tensors)
            if target in _ADDITIONS and len(tensors) == 2:
                raise self.point.refusal(
                    f"{inside} adds activations of {shapes} a sample", _NO_SHORTCUT
                ) from error
            raise self.point.refusal(
                f"{inside} cannot take {shapes or 'what it is given'} a sample: {type(error).__name__}: {error}",
                "Ask for width=1 and the trunk's own number of blocks, or give the branch a head of your own.",
            ) from error

    def _attribute(self, rest: fx.GraphModule, target: str) -> Any:
        path, _, name = target.rpartition(".")
        owner = rest.get_submodule(path)
        if target not in self.done and isinstance(getattr(owner, name), nn.Parameter):
            self.done.add(target)
            self._scale_vector(owner, name, target)
        return getattr(owner, name)

    def _fit(self, layer: nn.Module, path: str, x: Any) -> None:
        check_plain(self.point, layer, path)
        outputs = self.classes if path == self.classifier else None
        if isinstance(layer, _ConvNd):
            _fit_convolution(self.point, layer, path, x.shape[1], width=self.width, outputs=outputs)
        elif isinstance(layer, nn.Linear):
            _resize(layer, "weight", (outputs or scaled(layer.out_features, self.width), x.shape[-1]))
            layer.out_features, layer.in_features = layer.weight.shape
            _resize(layer, "bias", (layer.out_features,))
        elif isinstance(layer, (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.PReLU)):
            self._fit_norm(layer, path, x.shape)
        elif self.width != 1:
            for module_path, module in layer.named_modules():
                for name in list(module._parameters):
                    self._scale_vector(module, name, ".".join(p for p in (path, module_path, name) if p))

    def _fit_norm(self, layer: nn.Module, path: str, shape: torch.Size) -> None:
        if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
            if len(layer.normalized_shape) > 1:
                return  # over whole maps: right or refused when it runs
            first = type(layer) not in (nn.LayerNorm, nn.RMSNorm) and "2d" in type(layer).__name__  # timm, torchvision
            channels = shape[1] if first else shape[-1]
            layer.normalized_shape = (channels,)
        elif isinstance(layer, nn.PReLU):
            channels = layer.num_parameters = 1 if layer.num_parameters == 1 else shape[1]
        elif isinstance(layer, nn.GroupNorm):
            if layer.num_groups == layer.num_channels:
                layer.num_groups = shape[1]
            if shape[1] % layer.num_groups:
                raise self.point.refusal(
                    f"'{path}' normalises {layer.num_groups} groups, which do not divide {shape[1]} channels",
                    "Choose a width that they do divide.",
                )
            channels = layer.num_channels = shape[1]
        else:
            assert isinstance(layer, _NormBase)
            channels = layer.num_features = shape[1]
        for name in ("weight", "bias", "running_mean", "running_var"):
            _resize(layer, name, (channels,))

    def _scale_vector(self, owner: nn.Module, name: str, path: str) -> None:
        """Widen a parameter that holds one number a channel. Raises `ContinuationError` for any other."""
        parameter = owner._parameters[name]
        if parameter is None or self.width == 1 or parameter.numel() == 1:
            return
        if parameter.numel() != max(parameter.shape):
            raise self.point.refusal(
                f"no rule says how wide '{path}' of {type(owner).__name__} {tuple(parameter.shape)} has to be at width="
                f"{self.width:g}",
                "Ask for width=1, or give the branch a head of your own.",
            )
        before = self.values[parameter]
        _resize(owner, name, tuple(scaled(n, self.width) for n in parameter.shape))
        after = owner._parameters[name]
        assert after is not None
        self.values[after] = before.detach().mean().expand(after.shape)


def check_plain(point: Point, layer: nn.Module, path: str) -> None:
    """Raise `ContinuationError` for a layer whose weights are computed from others, by weight norm or pruning."""
    for name in ("weight", "bias"):
        plain = name in layer._parameters or not isinstance(getattr(layer, name, None), Tensor)
        if not plain and name not in layer._buffers:
            raise point.refusal(
                f"the {name} of '{path}' is computed from other parameters (a parametrisation, weight or spectral norm, or "
                "pruning), which a fresh copy would have to repeat",
                "Remove it before attaching, or give the branch a head of your own.",
            )


def set_outputs(point: Point, layer: nn.Module, path: str, classes: int) -> None:
    """Give the layer that makes the scores as many outputs as there are classes. Raises `ContinuationError`."""
    if isinstance(layer, nn.Linear):
        if layer.out_features != classes:
            layer.out_features = classes
            _resize(layer, "weight", (classes, layer.in_features))
            _resize(layer, "bias", (classes,))
    elif isinstance(layer, _ConvNd):
        if layer.out_channels != classes:
            _fit_convolution(point, layer, path, layer.in_channels, width=1, outputs=classes)
    else:
        raise point.refusal(f"the last layer with weights, '{path}', is a {type(layer).__name__}, which makes no scores")


def _fit_convolution(
    point: Point, layer: _ConvNd, path: str, channels: int, *, width: float, outputs: int | None
) -> None:
    if 1 < layer.groups == layer.in_channels:  # each channel for itself
        wide = outputs or channels * (layer.out_channels // layer.in_channels)
        layer.groups = channels
    else:
        wide = outputs or scaled(layer.out_channels, width, multiple=layer.groups)
    if channels % layer.groups or wide % layer.groups:
        raise point.refusal(
            f"'{path}' convolves {layer.groups} groups, which do not divide {channels} channels into {wide}",
            "Choose a width that they do divide, or tap another layer.",
        )
    layer.in_channels, layer.out_channels = channels, wide
    pair = (channels, wide // layer.groups) if isinstance(layer, _ConvTransposeNd) else (wide, channels // layer.groups)
    _resize(layer, "weight", (*pair, *layer.kernel_size))
    _resize(layer, "bias", (wide,))


def _resize(layer: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Put an empty parameter or buffer of another shape in the place of one; where there is none, leave it."""
    tensor = layer._parameters.get(name)
    if tensor is not None and tuple(tensor.shape) != shape:
        setattr(layer, name, nn.Parameter(tensor.new_empty(shape)))
    buffer = layer._buffers.get(name)
    if buffer is not None and tuple(buffer.shape) != shape:
        setattr(layer, name, buffer.new_zeros(shape))
