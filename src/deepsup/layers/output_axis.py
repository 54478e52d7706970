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

_LAST = (nn.Linear, nn.Bilinear, nn.RNNBase, nn.MultiheadAttention)  # which give out their channels on the last axis


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

    The last layer knows where its channels are: a convolution on axis 1, a linear layer on the last; all else are its places.
    Gradients tell of which places a number of `main` was made, and so along which axis these stay the same. Where everything
    was mixed, or nothing has a gradient, the channels are found by their number; where two axes have it, by what stands there;
    where they are not in `main` any more, by the places, if they are. Else the shape must tell: `features.infer_layout`.
    """
    if main.ndim <= 2:
        return 1, BY_SHAPE
    for name, layer, output in layers:
        own = _own_axis(layer)
        if own is None or output.ndim < 2:
            break
        said = f"the last {type(layer).__name__} '{name}'"
        seen = None if main is output else _by_gradient(main, output, own)
        if seen is not None:
            return seen, said
        square = main.shape[1] == main.shape[-1]
        if square and isinstance(layer, nn.Linear) and layer.in_features == layer.out_features:
            break  # it may as well mix places
        fits = [
            axis for axis in (1, -1) if main.shape[axis] == output.shape[own] and _is_made_of(main, axis, output, own)
        ]
        if len(fits) == 2:
            return _of_two(main, output, own), said
        if own not in fits and not square and main.ndim == output.ndim and _without(main, own) == _without(output, own):
            return own, f"the places of {said}"  # a product with other weights follows, such as those of an embedding
        if fits:
            return fits[0], said
        break
    last = len(main.shape) <= 5 and infer_layout(tuple(main.shape), input_shape)[-1] == "C"
    return (-1 if last else 1), BY_SHAPE


def _by_gradient(main: Tensor, output: Tensor, own: int) -> int | None:
    """The axis of `main` along which numbers are made of the same places of a layer's output, 1 or -1; None of both or none."""
    if main.grad_fn is None or not output.requires_grad or min(main.shape[1], main.shape[-1]) < 2:
        return None
    first = [0] * main.ndim
    ends = [[*first[:1], -1, *first[2:]], [*first[:-1], -1]]
    try:
        base, along_first, along_last = (_places_of(main[tuple(at)], output, own) for at in (first, *ends))
    except RuntimeError:  # what has no second backward, such as reentrant checkpoints
        return None
    if not (base.any() and along_first.any() and along_last.any()):
        return None
    same = torch.equal(base, along_first), torch.equal(base, along_last)
    return None if same[0] == same[1] else 1 if same[0] else -1


def _places_of(number: Tensor, output: Tensor, own: int) -> Tensor:
    """Of which places of a layer's output, its axis `own` being channels, a number was made: bool, (N, *places)."""
    (gradient,) = torch.autograd.grad(number.float(), output, retain_graph=True, allow_unused=True)
    return torch.zeros(1) if gradient is None else (gradient != 0).any(own)


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
    return -1 if isinstance(layer, _LAST) else None


def _of_two(main: Tensor, output: Tensor, own: int) -> int:
    """Where axis 1 and the last have the same length: the layer's own, unless what it gave out stands there turned."""
    if output.ndim != main.ndim or torch.equal(main, output):
        return own
    turned = output.movedim(own, -1 if own == 1 else 1)
    return -own if turned.shape == main.shape and torch.equal(main, turned) else own
