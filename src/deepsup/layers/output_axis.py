"""Which tensor of a model's output is the prediction, and on which axis its classes are, from the layers that made it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from deepsup.errors import OutputError
from deepsup.features import WHOLE, Pick, counted_from_the_start, default_pick, infer_layout, show_pick, tensors_in
from deepsup.predictions import BY_SHAPE


def main_of(model: str, output: Any, main: Pick | None) -> Pick:
    """Where the prediction is in what the model returned. Raises `OutputError` where there is no tensor."""
    outputs = tensors_in(output)
    if main is None:
        main = default_pick(output, f"the model ({model})") if not isinstance(output, Tensor) else ()
    if main == WHOLE:  # one that has a graph stands for all
        main = next((pick for pick, t in outputs.items() if t.requires_grad), ())
    main = counted_from_the_start(output, main)
    if main not in outputs:
        there = ", ".join(show_pick(p) or "the output itself" for p in outputs)
        raise OutputError(f"{model} has no output '{show_pick(main)}' for main=; found: {there or 'no tensor'}.")
    return main


def output_axis(
    main: Tensor,  # (N, ...)
    layers: Iterable[tuple[str, nn.Module, Tensor]],
    input_shape: tuple[int, ...],
) -> tuple[int, str]:
    """1 or -1, and how that is known. `layers` are those with weights that lead to `main`, the last one first.

    The last layer knows where its channels are: a convolution on axis 1, a linear layer on the last. They are found again
    in `main` by their number; where two axes have it, by what stands there; where its channels are not in `main` any more, by
    its places, if they are. Else, as after pixel shuffling, it says nothing, and the shape must tell: `features.infer_layout`.
    """
    if main.ndim <= 2:
        return 1, BY_SHAPE
    for name, layer, output in layers:
        own = _own_axis(layer)
        if own is None or output.ndim < 2:
            break
        fits = [
            axis for axis in (1, -1) if main.shape[axis] == output.shape[own] and _is_made_of(main, axis, output, own)
        ]
        said = f"the last {type(layer).__name__} '{name}'"
        if len(fits) == 2:
            return _of_two(main, output, own), said
        if own not in fits and main.ndim == output.ndim and _without(main, own) == _without(output, own):
            return own, f"the places of {said}"  # a product with other weights follows, such as those of an embedding
        if fits:
            return fits[0], said
        break
    last = len(main.shape) <= 5 and infer_layout(tuple(main.shape), input_shape)[-1] == "C"
    return (-1 if last else 1), BY_SHAPE


def _is_made_of(main: Tensor, axis: int, output: Tensor, own: int) -> bool:
    """Whether the places of two tensors are the same, or a map and its enlargement; a count alone may agree by chance."""
    there, here = _without(main, axis), _without(output, own)
    if len(there) != len(here):  # places that were strung together
        return there.numel() == here.numel()
    pairs = list(zip(there[1:], here[1:], strict=True))
    return there[0] == here[0] and all(abs(a * d - b * c) <= max(a, b, c, d) for a, b in pairs for c, d in pairs)


def _without(x: Tensor, axis: int) -> torch.Size:
    """The shape without this axis."""
    return torch.Size(n for at, n in enumerate(x.shape) if at != axis % x.ndim)


def _own_axis(layer: nn.Module) -> int | None:
    if isinstance(layer, _ConvNd):
        return 1
    return -1 if isinstance(layer, nn.Linear) else None


def _of_two(main: Tensor, output: Tensor, own: int) -> int:
    """Where axis 1 and the last have the same length: the layer's own, unless what it gave out stands there turned."""
    if output.ndim != main.ndim or torch.equal(main, output):
        return own
    turned = output.movedim(own, -1 if own == 1 else 1)
    return -own if turned.shape == main.shape and torch.equal(main, turned) else own
