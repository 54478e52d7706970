"""Which axis of an activation is what, in one run of a model: what was said, else what its layers know, else what shapes tell.

What a shape alone tells is `features.infer_layout`, what a layer of PyTorch's own knows `features.channel_axis`; here they
are put together, because a layer that knows where its channels are speaks for those after it that only hand them on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from deepsup.features import Feature, channel_axis, infer_layout


def batch_is_second(layer: nn.Module) -> bool:
    """Whether a layer of PyTorch's gives out (L, N, C), as its recurrent and attention layers do unless told otherwise."""
    inner = getattr(layer, "self_attn", layer)
    known = isinstance(
        layer, (nn.RNNBase, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention)
    )
    return known and getattr(inner, "batch_first", True) is False


@dataclass
class Layouts:
    """The layouts of one run's activations, shown layer by layer in the order in which they are done."""

    input_shape: tuple[int, ...]  # (N, ...)
    said: Mapping[str, str]  # by layer name; wins over what is inferred
    convolves: bool  # along sequences
    # Of the channels, by shape, as the last layer had it.
    axes: dict[tuple[int, ...], int] = field(default_factory=dict)
    channels: dict[str, int | None] = field(default_factory=dict)  # the axis for a layer's shape when it was done

    @classmethod
    def of(cls, model: nn.Module, input_shape: tuple[int, ...], said: Mapping[str, str]) -> Layouts:
        """Before the run."""
        return cls(input_shape, said, any(isinstance(m, (nn.Conv1d, nn.ConvTranspose1d)) for m in model.modules()))

    def see(self, name: str, layer: nn.Module, shape: tuple[int, ...]) -> None:
        """A layer is done, and gave out this shape (N, ...)."""
        axis = channel_axis(layer, shape)
        if axis is not None:
            self.axes[shape] = axis
        self.channels[name] = self.axes.get(shape)

    def feature(self, name: str, shape: tuple[int, ...]) -> Feature | None:
        """What a layer gave out; None where no head reads so few or so many dimensions."""
        if not 2 <= len(shape) <= 5:
            return None
        return Feature(shape[1:], self.said.get(name) or self._inferred(shape, self.channels[name]))

    def is_guess(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether nothing but the shape tells where a sequence's channels are: nobody said it, and no layer knows."""
        sequence = len(shape) == len(self.input_shape) == 3 and self.convolves and name not in self.said
        return sequence and (self.channels.get(name) is None or shape[1] == shape[2])

    def _inferred(self, shape: tuple[int, ...], channels: int | None) -> str:
        if len(shape) == len(self.input_shape) == 3 and not self.convolves:
            return "NLC"  # a model of sequences without a convolution is a transformer or recurrent, channels last
        return infer_layout(shape, self.input_shape, channels)
