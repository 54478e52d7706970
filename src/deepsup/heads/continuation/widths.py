"""Give the layers of a graph the channel counts that arrive at them."""

from __future__ import annotations

import operator
from collections.abc import Collection
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from deepsup.errors import ContinuationError
from deepsup.features import Feature
from deepsup.heads.continuation.cutting import LEAVES, Point
from deepsup.heads.continuation.dense_growth import is_transition, transition_width

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_UNEQUAL_SUM = (
    "Both parts of a sum need one width. A shortcut that adds its input unchanged gets it where the next block changes the "
    "width anyway: tap the end of a stage, or ask for width=1."
)
_AS_IT_IS = "Ask for width=1 and the trunk's own number of blocks, or give the branch a head of your own."


def scaled(count: int, width: float, *, multiple: int = 1) -> int:
    """`count` channels times `width`, as the nearest multiple of `multiple` that is not 0; a lone one stays."""
    return count if count == 1 else max(1, round(count * width / multiple)) * multiple


@final
class Resizing:
    """One run of a graph, without memory, in which every layer is given the channel counts that arrive at it.

    `width` multiplies the outputs of every layer but `classifier`, which gets `classes`. Parameters on the way are
    replaced by empty ones of the new shape. Those that belong to no layer of PyTorch's and hold one number a channel
    (ConvNeXt's layer scale) are widened alike: `values` says what parameters held, and learns what the new ones are to.
    Between the stages of a DenseNet, whose channels grow with their blocks, the transition keeps its compression: it makes
    the same share of what arrives, as DHM's code does. `blocks` are the paths of all blocks.
    """

    def __init__(
        self,
        point: Point,
        values: dict[Tensor, Tensor],
        *,
        width: float,
        classifier: nn.Module,
        classes: int,
        blocks: Collection[str] = (),
    ) -> None:
        self.point = point
        self.values = values
        self.width = width
        self.classifier = classifier
        self.classes = classes
        self.blocks = blocks
        self.done: set[nn.Module] = set()

    def run(self, rest: fx.GraphModule, feature: Feature) -> tuple[int, ...]:
        """The shape of what `rest` gives out for two activations like `feature`. Raises `ContinuationError`."""
        handles = []
        for path, layer in rest.named_modules():
            if isinstance(layer, LEAVES):
                check_plain(self.point, layer, path)
                handles.append(layer.register_forward_pre_hook(partial(self._fit, rest, path)))
            else:
                self._scale_vectors(layer, path, list(layer._parameters))
        try:
            with torch.no_grad():
                return self._run(rest, feature)
        finally:
            for handle in handles:
                handle.remove()

    def _run(self, rest: fx.GraphModule, feature: Feature) -> tuple[int, ...]:
        dtype = next((p.dtype for p in rest.parameters()), None)
        seen: dict[fx.Node, Any] = {}
        for node in rest.graph.nodes:
            args = map_arg(node.args, seen.__getitem__)
            kwargs = map_arg(node.kwargs, seen.__getitem__)
            if node.op == "placeholder":
                seen[node] = torch.zeros(2, *feature.shape, dtype=dtype, device="meta")
            elif node.op == "get_attr":
                path, _, name = str(node.target).rpartition(".")
                seen[node] = getattr(rest.get_submodule(path), name)
            elif node.op != "output":
                seen[node] = self._call(rest, node, args, kwargs)
        return tuple(seen[next(iter(node.all_input_nodes))].shape)

    def _call(self, rest: fx.GraphModule, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        try:
            if node.op == "call_module":
                return rest.get_submodule(target)(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            return target(*args, **kwargs)
        except ContinuationError:
            raise
        except Exception as error:
            inside = f"'{node.meta.get('layer') or target}'"
            tensors = [a for a in args if isinstance(a, Tensor)]
            shapes = " and ".join("x".join(map(str, t.shape[1:])) for t in tensors) or "what it is given"
            if target in _ADDITIONS and len(tensors) == 2:
                raise self.point.refusal(f"{inside} adds activations of {shapes} a sample", _UNEQUAL_SUM) from error
            raise self.point.refusal(
                f"{inside} cannot take {shapes} a sample: {type(error).__name__}: {error}", _AS_IT_IS
            ) from error

    def _fit(self, rest: fx.GraphModule, path: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        if layer in self.done or not args:
            return
        self.done.add(layer)
        shape = args[0].shape
        outputs = self.classes if layer is self.classifier else None
        if isinstance(layer, _ConvNd):
            outputs = outputs or self._compressed(rest, path, layer, shape[1])
            fit_convolution(self.point, layer, path, shape[1], width=self.width, outputs=outputs)
        elif isinstance(layer, nn.Linear):
            fit_linear(layer, shape[-1], outputs or scaled(layer.out_features, self.width))
        else:
            self._fit_norm(layer, path, shape)
        own = [name for name in layer._parameters if name not in ("weight", "bias")]
        self._scale_vectors(layer, path, own)  # the gain of a weight-standardised convolution

    def _compressed(self, rest: fx.GraphModule, path: str, layer: _ConvNd, channels: int) -> int | None:
        """What the transition of a DenseNet makes of `channels`; None for other layers, and where it is as ever."""
        usual = channels in (layer.in_channels, scaled(layer.in_channels, self.width))
        inside = any(f"{path}.".startswith(f"{block}.") for block in self.blocks)
        if usual or inside or not is_transition(rest, path, layer):
            return None
        return transition_width(layer, channels)

    def _fit_norm(self, layer: nn.Module, path: str, shape: torch.Size) -> None:
        channels = shape[1]
        if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
            if len(layer.normalized_shape) > 1:
                return  # over whole maps: it is right, or refuses when it runs
            if type(layer) in (nn.LayerNorm, nn.RMSNorm) or "2d" not in type(layer).__name__:  # as the zoos call theirs
                channels = shape[-1]
            layer.normalized_shape = (channels,)
        elif isinstance(layer, nn.PReLU):
            channels = layer.num_parameters = 1 if layer.num_parameters == 1 else channels
        elif isinstance(layer, nn.GroupNorm):
            if layer.num_groups == layer.num_channels:
                layer.num_groups = channels
            if channels % layer.num_groups:
                raise self.point.refusal(
                    f"'{path}' normalises {layer.num_groups} groups, which do not divide {channels} channels",
                    "Choose a width that they do divide.",
                )
            layer.num_channels = channels
        elif isinstance(layer, _NormBase):
            layer.num_features = channels
        for name in ("weight", "bias", "running_mean", "running_var"):
            _resize(layer, name, (channels,))

    def _scale_vectors(self, owner: nn.Module, path: str, names: list[str]) -> None:
        """Widen parameters that hold one number a channel. Raises `ContinuationError` for any other."""
        for name in names:
            parameter = owner._parameters[name]
            if parameter is None or self.width == 1 or parameter.numel() == 1:
                continue
            if parameter.numel() != max(parameter.shape):
                shown = f"{path}.{name}".lstrip(".")
                raise self.point.refusal(
                    f"no rule says how wide '{shown}' has to be, {'x'.join(map(str, parameter.shape))} at width=1",
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


def fit_linear(layer: nn.Linear, channels: int, outputs: int) -> None:
    """Let a linear layer take `channels` and give out `outputs`."""
    layer.in_features, layer.out_features = channels, outputs
    _resize(layer, "weight", (outputs, channels))
    _resize(layer, "bias", (outputs,))


def fit_convolution(
    point: Point, layer: _ConvNd, path: str, channels: int, *, width: float = 1, outputs: int | None = None
) -> None:
    """Let a convolution take `channels` and give out `outputs`, or `width` times as many as it did."""
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
