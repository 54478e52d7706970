"""Cross-entropy of enlarged scores that never builds the enlarged map.

Dense prediction gives scores at an eighth of the labels' size or less, and its loss is taken at the labels' size:
`cross_entropy(interpolate(scores))` builds a map of N C H W numbers, which the softmax and both backward passes copy (2 GiB
for 4 images of 473 x 473 with 150 classes). Here loss and gradient are computed together, tile by tile of the output.

Bilinear enlargement is linear, and separable: with the weights R (H, h) of the rows and Q (W, w) of the columns a tile of
the enlarged map is E = R_t X Q_t^T, of the few small rows and columns that the tile reads. From its loss comes G = dl/dE,
of the same shape, and R_t^T G Q_t is what the tile adds to the gradient of X. Then the tile is forgotten. What stays is one
gradient of the scores' own size, which backward multiplies by what comes in. The same in any order of tiles, without
atomics: a run repeats itself bit by bit.

On an NVIDIA GPU the softmax loss of float32 scores can run as the Triton kernels of `upsampled_triton` instead. They have run
in Triton's interpreter only, so they are used on request alone: with DEEPSUP_TRITON=1 in the environment.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from deepsup.errors import ClassCountError, ConfigError, HeadError
from deepsup.features import widened
from deepsup.losses.labels import IGNORE, check_labels, free_to_look, label_message
from deepsup.specs import require

# Numbers in a tile of the enlarged map, labels and what is made of them counted in. On the CPU for each thread: a few MiB, so
# that a step on a tile finds it in the cache, and lasts longer than the threads take to meet after it. Elsewhere so many that
# launching the steps costs little.
TILE = {"cpu": 2**20}
TILE_ELSEWHERE = 2**24
PER_PLACE = 12
NO_DERIVATIVE = (
    "the blocked loss on enlarged scores has no {} derivative. Enlarge them in a step of its own where one is needed: "
    "F.interpolate and F.cross_entropy, or the loss with resize='interpolate'."
)


def upsampled_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    align_corners: bool = False,
    ignore_index: int = IGNORE,
    weight: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Softmax cross-entropy of scores enlarged to the labels' size: a scalar, equal to

        F.cross_entropy(F.interpolate(logits, (H, W), mode="bilinear", align_corners=align_corners), target,
                        weight=weight, ignore_index=ignore_index, label_smoothing=smoothing)

    `logits` are finite raw scores (N, C, h, w) of any float dtype and memory layout, `target` class indices (N, H, W) of
    any integer dtype, `weight` one number a class (C,). With s = interpolate(logits), e = `smoothing` in [0, 1) and
    l_i(c) = logsumexp_k s_ik - s_ic it is, over the counted places i with labels y_i,

        sum_i [(1 - e) w_{y_i} l_i(y_i) + e/C sum_c w_c l_i(c)] / sum_i w_{y_i}

    Where no place counts the loss is 0 and its gradient 0; PyTorch's is NaN. Computed in float32 (of float64 scores in
    float64), also under autocast; the gradient has the scores' dtype. Where the map grows there is no second derivative,
    and none by forward mode or `torch.func.grad`: asking for one raises `RuntimeError`.

    Raises `HeadError` when shapes do not fit, and `ClassCountError` for a label that is neither below C nor `ignore_index`,
    the latter on the CPU only: looking would make the host wait for a GPU, where the loss is NaN or a device assert stops it.
    """
    _check(logits, target, "upsampled_cross_entropy")
    if weight is not None and tuple(weight.shape) != (logits.shape[1],):
        raise HeadError(
            f"weight must have one number for each of the {logits.shape[1]} classes of the scores; found shape "
            f"{tuple(weight.shape)}."
        )
    if not torch.compiler.is_compiling() and not 0 <= smoothing < 1:
        raise ConfigError(f"upsampled_cross_entropy needs smoothing to be a number in [0, 1); found {smoothing!r}.")
    if _enlarges(logits, target):
        return _blocked(logits, target, weight, "softmax", align_corners, ignore_index, smoothing)
    scores = _interpolated(logits, target, align_corners)
    weight = None if weight is None else weight.to(scores.dtype)
    return mean_cross_entropy(scores, target.long(), weight, ignore_index=ignore_index, smoothing=smoothing)


def upsampled_binary_cross_entropy(
    logits: Tensor, target: Tensor, *, align_corners: bool = False, ignore_index: int = IGNORE
) -> Tensor:
    """Sigmoid cross-entropy of scores enlarged to the labels' size: a scalar.

    `logits` (N, 1, h, w) against labels 0 and 1 (N, H, W), or (N, C, h, w) each class against the rest: equal to
    `F.binary_cross_entropy_with_logits` of the enlarged scores and the one-hot labels, averaged over the channels and the
    counted places. All else as for `upsampled_cross_entropy`.
    """
    _check(logits, target, "upsampled_binary_cross_entropy")
    if _enlarges(logits, target):
        return _blocked(logits, target, None, "sigmoid", align_corners, ignore_index, 0.0)
    if free_to_look(target):
        check_labels(max(2, logits.shape[1]), target, ignore_index)
    scores = _interpolated(logits, target, align_corners)
    counted = (target != ignore_index).unsqueeze(1)
    classes = torch.arange(scores.shape[1], device=target.device) if scores.shape[1] > 1 else target.new_ones(1)
    hot = target.unsqueeze(1) == classes.view(-1, 1, 1)
    each = F.binary_cross_entropy_with_logits(scores, hot.to(scores.dtype), reduction="none")
    return mean_of(torch.where(counted, each, 0.0).sum(), counted.sum() * scores.shape[1])


def _check(logits: Tensor, target: Tensor, name: str) -> None:
    fits = logits.ndim == 4 and target.ndim == 3 and logits.shape[0] == target.shape[0]
    empty = 0 in logits.shape[1:] or 0 in target.shape[1:]
    if not fits or empty or not logits.is_floating_point() or target.is_floating_point():
        raise HeadError(
            f"{name} holds scores (N, C, h, w) against class indices (integers) (N, H, W); found scores of shape "
            f"{tuple(logits.shape)} and dtype {logits.dtype}, and a target of shape {tuple(target.shape)} and dtype "
            f"{target.dtype}. Give labels as target.long(), a mask of shape (N, 1, H, W) without its axis of 1."
        )
    if logits.device != target.device:
        raise HeadError(f"{name}: the scores are on {logits.device}, the target on {target.device}; move one of them.")


def _enlarges(logits: Tensor, target: Tensor) -> bool:
    """Is there anything to gain? Scores that are shrunk, or stay as they are, are the largest map there is."""
    (h, w), (height, width) = logits.shape[2:], target.shape[1:]
    return target.numel() > 0 and height >= h and width >= w and (height > h or width > w)


def _interpolated(logits: Tensor, target: Tensor, align_corners: bool) -> Tensor:
    size = tuple(target.shape[1:])
    if tuple(logits.shape[2:]) == size:
        return widened(logits)
    return F.interpolate(widened(logits), size, mode="bilinear", align_corners=align_corners)


def mean_cross_entropy(
    scores: Tensor,  # (N, C, *places), raw
    target: Tensor,  # (N, *places), class indices as int64
    weight: Tensor | None,  # (C,)
    *,
    ignore_index: int,
    smoothing: float,
) -> Tensor:
    """PyTorch's softmax cross-entropy over the places that count, and 0 where none does.

    Raises `ClassCountError` for a label without a class, where PyTorch looks: on the CPU.
    """
    options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": smoothing, "reduction": "sum"}
    try:
        total = F.cross_entropy(scores, target, weight, **options)
    except IndexError:
        raise ClassCountError(label_message(scores.shape[1], target, ignore_index)) from None
    counted = target != ignore_index
    shares = counted if weight is None else torch.where(counted, weight[torch.where(counted, target, 0)], 0.0)
    return mean_of(total, shares.sum())


def mean_of(total: Tensor, whole: Tensor) -> Tensor:
    """0 where nothing counts."""
    return torch.where(whole != 0, total / torch.where(whole != 0, whole, 1), 0.0)


def _blocked(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    form: str,
    align_corners: bool,
    ignore_index: int,
    smoothing: float,
) -> Tensor:
    if not torch.compiler.is_compiling() and _has_tangent(logits):
        raise RuntimeError(NO_DERIVATIVE.format("forward-mode"))  # PyTorch would drop the tangent without a word
    # The operator works below autograd and cannot see whether a gradient will be asked for.
    wanted = torch.is_grad_enabled() and logits.requires_grad
    loss: Tensor = _operator(logits, target, weight, form, align_corners, ignore_index, smoothing, wanted)[0]
    return loss


def _has_tangent(x: Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


# One opaque operator for compilers and dry runs: they see its shapes, not its loops.
@torch.library.custom_op(
    "deepsup::upsampled_loss",
    mutates_args=(),
    schema="(Tensor logits, Tensor target, Tensor? weight, str form, bool align_corners, int ignore_index, "
    "float smoothing, bool wanted) -> (Tensor, Tensor)",
)
def _operator(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    form: str,
    align_corners: bool,
    ignore_index: int,
    smoothing: float,
    wanted: bool,
) -> tuple[Tensor, Tensor]:
    """The loss and, where it is wanted, its gradient (N, C, h, w), both in float32 or float64."""
    if logits.device.type == "cpu":
        check_labels(max(2, logits.shape[1]) if form == "sigmoid" else logits.shape[1], target, ignore_index)
    small = widened(logits)
    weight = None if weight is None else weight.to(small)
    options = PlaceOptions(form, ignore_index, weight, smoothing)
    with torch.autocast(logits.device.type, enabled=False):  # else it would take the products in half precision
        total, whole, slope = _computed(small, target, options, align_corners=align_corners, wanted=wanted)
    there = whole != 0
    one_share = torch.where(there, 1 / torch.where(there, whole, 1), 0)
    if slope is None:
        return torch.where(there, total * one_share, 0), small.new_empty(0)
    return torch.where(there, total * one_share, 0), slope.mul_(one_share)


@_operator.register_fake
def _shapes(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, wanted = rest
    dtype = torch.promote_types(logits.dtype, torch.float32)
    slope = logits.new_empty(logits.shape if wanted else (0,), dtype=dtype)
    return logits.new_empty((), dtype=dtype), slope


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])
    ctx.dtype = inputs[0].dtype


def _backward(ctx: Any, loss: Tensor | None, slope: Tensor | None) -> tuple[Tensor | None, ...]:
    # The kept gradient is an output of the operator: whoever differentiates through it arrives here, and not at silent zero.
    if slope is not None:
        raise RuntimeError(NO_DERIVATIVE.format("second"))
    (kept,) = ctx.saved_tensors
    # In half precision only after the product: a mean over a million places leaves gradients that it rounds to zero.
    return (None if loss is None else (loss * kept).to(ctx.dtype), *[None] * 7)


_operator.register_autograd(_backward, setup_context=_keep)


class PlaceOptions(NamedTuple):
    """What is asked of each place of the enlarged map: "softmax" or "sigmoid", and its options."""

    form: str
    ignore_index: int
    weight: Tensor | None
    smoothing: float


def _computed(
    small: Tensor, target: Tensor, options: PlaceOptions, *, align_corners: bool, wanted: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """By the kernels where they are asked for and can, else in tiles."""
    if not wants_kernels(small.device, small.dtype, options.form):
        return in_tiles(small, target, options, align_corners=align_corners, wanted=wanted)
    require("triton", purpose="DEEPSUP_TRITON=1", install="triton")
    from deepsup.losses import upsampled_triton

    return upsampled_triton.cross_entropy(
        small,
        target,
        options.weight,
        align_corners=align_corners,
        ignore_index=options.ignore_index,
        smoothing=options.smoothing,
        wanted=wanted,
    )


def wants_kernels(device: torch.device, dtype: torch.dtype, form: str) -> bool:
    """Whether DEEPSUP_TRITON=1 asks for the Triton kernels, and they can do it: the softmax of float32 scores on a GPU."""
    asked = os.environ.get("DEEPSUP_TRITON") == "1"
    return asked and device.type == "cuda" and dtype == torch.float32 and form == "softmax"


def in_tiles(
    small: Tensor, target: Tensor, options: PlaceOptions, *, align_corners: bool, wanted: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Summed loss, summed shares of the places, and the gradient of the summed loss (N, C, h, w) if `wanted`."""
    (batch, classes, h, w), (height, width) = small.shape, target.shape[1:]
    x = small.permute(2, 0, 1, 3).contiguous()  # (h, N, C, w): rows first, so that both products are plain ones
    slope = torch.zeros_like(x) if wanted else None
    of_rows = _shares(h, height, align_corners, small)
    of_columns = of_rows if (h, height) == (w, width) else _shares(w, width, align_corners, small)
    evaluate = _softmax if options.form == "softmax" else _sigmoid
    sums = []
    numbers = _numbers(small.device, target.numel() * (classes + PER_PLACE))
    for images, rows, columns in _tiles(batch, classes, height, width, numbers):
        up, left = _reach(rows, h, height, align_corners), _reach(columns, w, width, align_corners)
        r, q = of_rows[rows, up], of_columns[columns, left]
        part = x[up, images, :, left] @ q.T
        scores = (r @ part.flatten(1)).view(len(r), *part.shape[1:])
        sums.append(evaluate(scores, target[images, rows, columns].transpose(0, 1).long(), options, wanted))
        if slope is not None:  # scores hold their gradient now
            slope[up, images, :, left] += (r.T @ scores.flatten(1)).view(part.shape) @ q
    total, whole = torch.stack([torch.stack(pair) for pair in sums]).sum(0)
    return total, whole, None if slope is None else slope.permute(1, 2, 0, 3).contiguous()


def _softmax(scores: Tensor, labels: Tensor, options: PlaceOptions, wanted: bool) -> tuple[Tensor, Tensor]:
    """Summed loss and shares of a tile's scores (R, n, C, T) and labels (R, n, T). Scores become their gradient."""
    counted = labels != options.ignore_index
    index = torch.where(counted, labels, 0)
    share = counted.to(scores.dtype) if options.weight is None else torch.where(counted, options.weight[index], 0.0)
    scores -= scores.amax(2, keepdim=True)
    # l = push logsumexp(s) - pull s_y - even sum_c w_c s_c, and its gradient: push p - pull [c = y] - even w_c
    push = pull = share * (1 - options.smoothing) if options.smoothing else share
    loss = -(pull * _of_class(scores, index)).sum()
    if options.smoothing:
        weights = scores.new_ones(scores.shape[2]) if options.weight is None else options.weight
        even = counted.to(scores.dtype) * (options.smoothing / scores.shape[2])
        push = pull + even * weights.sum()
        loss -= (even * (weights @ scores)).sum()
    mass = scores.exp_().sum(2)
    loss += (push * mass.log()).sum()
    if wanted:
        scores *= (push / mass).unsqueeze(2)
        scores.scatter_add_(2, index.unsqueeze(2), -pull.unsqueeze(2))
        if options.smoothing:
            scores -= even.unsqueeze(2) * weights.unsqueeze(1)
    return loss, share.sum()


def _sigmoid(scores: Tensor, labels: Tensor, options: PlaceOptions, wanted: bool) -> tuple[Tensor, Tensor]:
    """As `_softmax`, each channel for itself. A single channel is that of label 1."""
    counted = labels != options.ignore_index
    share = counted.to(scores.dtype)
    loss = share * F.softplus(scores, threshold=40).sum(2)
    if scores.shape[2] == 1:
        index = None
        pull = (counted & (labels == 1)).to(scores.dtype)
        loss -= pull * scores[:, :, 0]
    else:
        index = torch.where(counted, labels, 0)
        pull = share
        loss -= pull * _of_class(scores, index)
    if wanted:
        scores.sigmoid_().mul_(share.unsqueeze(2))
        if index is None:
            scores -= pull.unsqueeze(2)
        else:
            scores.scatter_add_(2, index.unsqueeze(2), -pull.unsqueeze(2))
    return loss.sum(), share.sum() * scores.shape[2]


def _of_class(scores: Tensor, index: Tensor) -> Tensor:
    return scores.gather(2, index.unsqueeze(2)).squeeze(2)


def _shares(small: int, large: int, align_corners: bool, like: Tensor) -> Tensor:
    """(large, small): what each small row gives to each row of the enlarged map; PyTorch's own numbers."""
    unit = torch.eye(small, dtype=like.dtype, device=like.device).unsqueeze(0)
    return F.interpolate(unit, large, mode="linear", align_corners=align_corners)[0].T


def _reach(places: slice, small: int, large: int, align_corners: bool) -> slice:
    """The small rows that a tile's rows read. PyTorch counts in float32, so a rounding error more on both sides."""

    def source(place: int) -> float:
        if align_corners:
            return place * (small - 1) / max(1, large - 1)
        return max(0.0, (place + 0.5) * small / large - 0.5)

    first, last = math.floor(source(places.start) - 0.01), math.floor(source(places.stop - 1) + 0.01)
    return slice(max(0, first), min(small, last + 2))


def _numbers(device: torch.device, whole: int) -> int:
    """How many numbers a tile may have: on the CPU not much of the whole map either, which is to stay unbuilt."""
    if device.type not in TILE:
        return TILE_ELSEWHERE
    return min(TILE[device.type] * torch.get_num_threads(), max(TILE[device.type] // 4, whole // 16))


def _tiles(batch: int, classes: int, height: int, width: int, numbers: int) -> Iterator[tuple[slice, slice, slice]]:
    """Images, rows and columns of each tile, of about `numbers` numbers: whole images where they fit, else squares."""
    places = max(1, numbers // (classes + PER_PLACE))
    images = max(1, places // (height * width))
    columns = min(width, max(256, math.isqrt(places)))  # short rows are slow to reduce over
    rows = min(height, max(1, places // columns))
    for image in _slices(batch, images):
        for row in _slices(height, rows):
            for column in _slices(width, columns):
                yield image, row, column


def _slices(length: int, most: int) -> list[slice]:
    """0..length in equal pieces of at most `most`."""
    pieces = -(-length // most)
    return [slice(length * i // pieces, length * (i + 1) // pieces) for i in range(pieces)]
