"""What a layer gave out: which tensor of its output, in which layout, at which size.

Layers return tensors, tuples, dicts or dataclasses. A *pick* is the path to one tensor in there, a tuple of
keys and positions: `()` is the output itself, `(0,)` its first element, `("logits",)` its field or key.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from deepsup.errors import OutputError

Pick = tuple[str | int, ...]

LAYOUTS = {
    "NC": "one vector a sample",
    "NCL": "a sequence, channels first",
    "NLC": "tokens: a sequence, channels last",
    "NCHW": "a map, channels first",
    "NHWC": "a map, channels last",
    "NCDHW": "a volume, channels first",
    "NDHWC": "a volume, channels last",
}

_NUMBER = re.compile(r"-?[0-9]+")

WHOLE: Pick = ("*",)  # all that a model returns, for a loss of the user's own

# The usual names of "the" tensor in outputs with several: transformers', torchvision's and timm's conventions.
USUAL_NAMES = ("logits", "out", "last_hidden_state", "hidden_states", "prediction", "output")


@dataclass(frozen=True)
class Feature:
    """Shape (without the batch) and layout of one activation, e.g. `Feature((64, 8, 8), "NCHW")`."""

    shape: tuple[int, ...]
    layout: str

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS or len(self.shape) != len(self.layout) - 1:
            raise OutputError(
                f"layout {self.layout!r} does not fit a {len(self.shape)}-dimensional activation {self.shape} (batch "
                f"not counted). Layouts: {', '.join(f'{k} ({v})' for k, v in LAYOUTS.items())}."
            )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.shape[self.layout.index("C") - 1]

    @property
    def size(self) -> tuple[int, ...]:
        """Spatial size: () for vectors, (L,) for sequences, (H, W) for maps."""
        return tuple(n for n, letter in zip(self.shape, self.layout[1:], strict=True) if letter != "C")

    @property
    def places(self) -> tuple[int, ...]:
        """The axes of the activation (batch included) that are neither batch nor channels."""
        return tuple(i for i, letter in enumerate(self.layout) if letter not in "NC")

    @property
    def channels_last(self) -> bool:
        """Whether the channels stand after the places."""
        return self.size != () and self.layout[-1] == "C"

    def __str__(self) -> str:
        return "x".join(map(str, self.shape))


def infer_layout(shape: tuple[int, ...], input_shape: tuple[int, ...], channels: int | None = None) -> str:
    """Guess the layout of an activation of `shape` (batch included) from the shape of the model's input.

    Maps keep the aspect ratio of the image, so the two axes that shrank by one factor are height and width. Where
    both readings fit (8x8x8) or none does (blocks of tokens), `channels` decides: the axis, 1 or -1, on which the layer
    that last gave out this shape has them (`channel_axis`); else they come first, as PyTorch has it. Of a sequence
    (N, A, B) whose last axis grew, that axis is the channels. Pass `layout=` to `plan` to say otherwise.
    """
    if len(shape) in (4, 5):
        first, last = _is_map(shape[-2:], input_shape), _is_map(shape[-3:-1], input_shape)
        channels_last = last if first != last else channels == -1
        return ("NHWC" if channels_last else "NCHW") if len(shape) == 4 else "NDHWC" if channels_last else "NCDHW"
    if len(shape) == 3 and channels is not None and shape[1] != shape[2]:
        return "NCL" if channels == 1 else "NLC"
    if len(shape) == 3:
        tokens = len(input_shape) != 3 or (shape[1] == input_shape[1] and shape[2] > input_shape[2])
        return "NLC" if tokens else "NCL"
    return "NC"


def _is_map(size: tuple[int, ...], input_shape: tuple[int, ...]) -> bool:
    """Whether `size` is the image's height and width, both divided by one factor (give or take rounding)."""
    if len(input_shape) not in (4, 5):
        return size[0] == size[1]
    height, width = input_shape[-2:]
    return abs(height * size[1] - width * size[0]) <= max(height, width)


def channel_axis(layer: nn.Module, shape: tuple[int, ...]) -> int | None:
    """On which axis of its output of `shape` a layer of PyTorch's own has the channels, 1 or -1; None: not known.

    A linear layer on a sequence is not asked, because mixers run it over the tokens.
    """
    if isinstance(layer, (_ConvNd, _BatchNorm, _InstanceNorm, nn.GroupNorm)):
        return 1
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):  # or a zoo's own kind of it, which may have them first
        first, last = (n == tuple(layer.normalized_shape[-1:]) for n in (shape[1:2], shape[-1:]))
        return None if first == last else 1 if first else -1
    return -1 if type(layer) is nn.Linear and len(shape) > 3 else None


def widened(x: Tensor) -> Tensor:
    """In float32 where it is narrower: sums of squares and exponentials leave half precision at once."""
    return x if x.dtype == torch.float64 or x.is_complex() else x.float()


def tensors_in(output: object) -> dict[Pick, Tensor]:
    """Every tensor in a layer's output with the pick that reaches it, outermost first."""
    return dict(_walk(output, ()))


def _walk(value: object, pick: Pick) -> Iterator[tuple[Pick, Tensor]]:
    if isinstance(value, Tensor):
        yield pick, value
        return
    for key, item in _items(value):
        yield from _walk(item, (*pick, key))


def _items(value: object) -> list[tuple[str | int, Any]]:
    if isinstance(value, Mapping):
        return [(k, v) for k, v in value.items() if isinstance(k, (str, int))]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return []


def default_pick(output: object, what: str) -> Pick:
    """The pick of the tensor that is meant when nobody says: the only one, the first of a tuple, or a usual name.

    Raises `OutputError` that lists the candidates; `what` names the layer or model in that message.
    """
    found = {p: t for p, t in tensors_in(output).items() if t.is_floating_point() and t.ndim >= 2}
    if not found:
        raise OutputError(
            f"{what} returned {type(output).__name__} with no floating-point tensor of 2 or more dimensions in it: "
            "there is nothing to supervise. Choose another layer; list all with: deepsup layers MODEL."
        )
    if len(found) == 1:
        return next(iter(found))
    for name in USUAL_NAMES:
        if (name,) in found:
            return (name,)
    if isinstance(output, (tuple, list)) and not hasattr(output, "_fields") and (0,) in found:
        return (0,)
    choices = ", ".join(f"{show_pick(p)} {tuple(t.shape)}" for p, t in found.items())
    raise OutputError(
        f"{what} returned {type(output).__name__} with {len(found)} tensors: {choices}. Say which one is meant, "
        f"for a layer as 'LAYER@{show_pick(next(iter(found)))}', for the model as main='...'."
    )


def picked(output: Any, pick: Pick) -> Any:
    """What `pick` reaches in `output`. Raises `LookupError` where it reaches nothing."""
    for key in pick:
        if isinstance(output, Mapping):
            output = output[key]
        elif isinstance(key, int) and isinstance(output, (tuple, list)):
            output = output[key]
        elif isinstance(key, str) and not isinstance(output, Tensor) and hasattr(output, key):
            output = getattr(output, key)
        else:
            raise LookupError(key)
    return output


def replaced(output: Any, pick: Pick, tensor: Tensor) -> Any:
    """`output` with `tensor` in the place that `pick` reaches; what lies on the way is copied, not changed."""
    if not pick:
        return tensor
    key, rest = pick[0], pick[1:]
    inner = replaced(picked(output, (key,)), rest, tensor)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(inner if name == key else v for name, v in zip(output._fields, output, strict=True)))
    if isinstance(output, tuple) and isinstance(key, int):
        return (*output[:key], inner, *output[key + 1 :])
    if type(output) is dict:
        return {**output, key: inner}
    changed = copy.copy(output)  # lists, mappings of their own class (transformers' outputs), dataclasses
    if isinstance(output, (Mapping, list)):
        changed[key] = inner
    else:
        object.__setattr__(changed, str(key), inner)
    return changed


def counted_from_the_start(output: object, pick: Pick) -> Pick:
    """A pick with its positions from the end (`-1`) as those from the start, which is how `tensors_in` names them."""
    found: list[str | int] = []
    for key in pick:
        from_the_end = isinstance(key, int) and key < 0 and isinstance(output, (tuple, list))
        found.append(key + len(output) if from_the_end else key)  # type: ignore[arg-type, operator]
        try:
            output = picked(output, (key,))
        except LookupError:
            return pick
    return tuple(found)


def show_pick(pick: Pick) -> str:
    """A pick as users write it: `0`, `-1`, `hidden` or `states.0`; a key that is a number or has dots stands in quotes."""
    return ".".join(repr(k) if isinstance(k, str) and (_NUMBER.fullmatch(k) or "." in k) else str(k) for k in pick)


def split_call(layer: str) -> tuple[str, int]:
    """`"cell#2"` as layer and number of its call in one forward: from 1, -1 for the last, 0 where none is written."""
    found = re.fullmatch(r"(.+)#(-1|[1-9][0-9]*)", layer)
    return (found[1], int(found[2])) if found else (layer, 0)


def read_pick(text: str) -> Pick:
    """The inverse of `show_pick`."""
    parts = re.findall(r"'[^']*'|[^.]+", str(text))  # 0 means "0"
    return tuple(p[1:-1] if p.startswith("'") else int(p) if _NUMBER.fullmatch(p) else p for p in parts)


def main_prediction(output: Any, pick: Pick | str = ()) -> Any:
    """The prediction inside what a model returned: the tensor itself, or the one that `pick` reaches; of "*" all of it.

    Models that return more in training than in evaluation (torchvision's GoogLeNet, Inception) are covered: a bare
    tensor is always the prediction. Raises `OutputError` when `pick` reaches no tensor.
    """
    if isinstance(output, Tensor):
        return output
    pick = pick if isinstance(pick, tuple) else read_pick(pick)
    if pick == WHOLE:
        return output
    try:
        found = picked(output, pick or default_pick(output, "the model"))
    except LookupError:
        found = None
    if not isinstance(found, Tensor):
        there = ", ".join(show_pick(p) for p in tensors_in(output)) or "no tensor at all"
        raise OutputError(
            f"the model's output ({type(output).__name__}) has no tensor at {show_pick(pick)!r}; found: {there}. "
            "Pass main=... to plan to say where the prediction is."
        )
    return found
