"""The softmax loss on enlarged scores as two Triton kernels; `upsampled` says what is computed, and is the other way to do it.

The small scores (N, h, w, C) span cells: all places of the enlarged map that lie between the same four of them. A program
takes one cell, so that it loads four rows of classes and enlarges them in registers. The first kernel gives each place's
logsumexp and each cell's loss. The second, a program for some classes of a cell, computes the scores again, and from them
what the cell adds to the gradient of its four corners; these are written side by side and summed afterwards. No atomics: a
run repeats itself bit by bit. In memory stand the logsumexp (N, H, W) and four gradients of the small size.

They have run in Triton's interpreter only. Importing this needs Triton; `upsampled` does so where DEEPSUP_TRITON=1 asks for it.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _corners(x, n, i, j, h, w, classes, k):
    """The scores k of the four corners of cell (i, j) of image n. The last row and column are their own neighbours."""
    there = k < classes
    row, below = (n * h + i) * w, (n * h + tl.minimum(i + 1, h - 1)) * w
    right = tl.minimum(j + 1, w - 1)
    a = tl.load(x + (row + j) * classes + k, mask=there, other=0.0)
    b = tl.load(x + (row + right) * classes + k, mask=there, other=0.0)
    c = tl.load(x + (below + j) * classes + k, mask=there, other=0.0)
    d = tl.load(x + (below + right) * classes + k, mask=there, other=0.0)
    return a, b, c, d


@triton.jit
def _enlarged(a, b, c, d, y, x):
    """(places, classes): the scores at the shares y and x of the way to the next row and column."""
    upper = a[None, :] + x[:, None] * (b - a)[None, :]
    lower = c[None, :] + x[:, None] * (d - c)[None, :]
    return upper + y[:, None] * (lower - upper)


@triton.jit
def _cell(cell, h, w, row_starts, column_starts):
    """Image, row and column of a cell, its first place, its columns and how many places it has."""
    n, i, j = (cell // (h * w)).to(tl.int64), cell // w % h, cell % w
    top, left = tl.load(row_starts + i), tl.load(column_starts + j)
    columns = tl.load(column_starts + j + 1) - left
    return n, i, j, top, left, columns, (tl.load(row_starts + i + 1) - top) * columns


@triton.jit
def _places(
    place, count, columns, n, top, left, target, row_shares, column_shares, weight,
    height, width, ignore, smoothing, classes,
):  # fmt: skip
    """Of some places of a cell: where they are in the map, their shares, labels, and factors pull and even (see `upsampled`)."""
    inside = place < count
    row, column = top + place // columns, left + place % columns
    at = (n * height + row) * width + column
    y = tl.load(row_shares + row, mask=inside, other=0.0)
    x = tl.load(column_shares + column, mask=inside, other=0.0)
    label = tl.load(target + at, mask=inside, other=ignore)
    counted = inside & (label != ignore)
    known = (label >= 0) & (label < classes)
    share = tl.load(weight + label, mask=counted & known, other=0.0)
    # A label without a class gives no number, and no stray read.
    share = tl.where(counted & (known == 0), float("nan"), share)
    even = tl.where(counted, smoothing / classes, 0.0)
    return at, inside, y, x, label, share, even


@triton.jit
def _loss_kernel(
    x, target, weight, row_starts, row_shares, column_starts, column_shares, mass, sums,
    h, w, height, width, classes, ignore, smoothing, PLACES: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    cell, weights = tl.program_id(0), tl.load(weight + classes)
    n, i, j, top, left, columns, count = _cell(cell, h, w, row_starts, column_starts)
    total = tl.zeros((PLACES,), tl.float32)
    shares = tl.zeros((PLACES,), tl.float32)
    for first in range(0, count, PLACES):
        place = first + tl.arange(0, PLACES)
        at, inside, fy, fx, label, share, even = _places(
            place, count, columns, n, top, left, target, row_shares, column_shares, weight,
            height, width, ignore, smoothing, classes,
        )  # fmt: skip
        highest = tl.full((PLACES,), float("-inf"), tl.float32)
        summed = tl.zeros((PLACES,), tl.float32)
        own = tl.zeros((PLACES,), tl.float32)
        spread = tl.zeros((PLACES,), tl.float32)
        for start in range(0, classes, CLASSES):
            k = start + tl.arange(0, CLASSES)
            a, b, c, d = _corners(x, n, i, j, h, w, classes, k)
            score = _enlarged(a, b, c, d, fy, fx)
            own += tl.sum(tl.where(k[None, :] == label[:, None], score, 0.0), 1)
            spread += tl.sum(score * tl.load(weight + k, mask=k < classes, other=0.0)[None, :], 1)
            score = tl.where(k[None, :] < classes, score, float("-inf"))
            higher = tl.maximum(highest, tl.max(score, 1))
            summed = summed * tl.exp(highest - higher) + tl.sum(tl.exp(score - higher[:, None]), 1)
            highest = higher
        log_mass = highest + tl.log(summed)
        pull = share * (1.0 - smoothing)
        total += pull * (log_mass - own) + even * (weights * log_mass - spread)
        shares += share
        tl.store(mass + at, log_mass, mask=inside)
    tl.store(sums + 2 * cell, tl.sum(total, 0))
    tl.store(sums + 2 * cell + 1, tl.sum(shares, 0))


@triton.jit
def _gradient_kernel(
    x, target, weight, row_starts, row_shares, column_starts, column_shares, mass, out,
    h, w, height, width, classes, ignore, smoothing, PLACES: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    cell, weights = tl.program_id(0), tl.load(weight + classes)
    n, i, j, top, left, columns, count = _cell(cell, h, w, row_starts, column_starts)
    k = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    of_class = tl.load(weight + k, mask=k < classes, other=0.0)
    a, b, c, d = _corners(x, n, i, j, h, w, classes, k)
    ga = tl.zeros((CLASSES,), tl.float32)
    gb = tl.zeros((CLASSES,), tl.float32)
    gc = tl.zeros((CLASSES,), tl.float32)
    gd = tl.zeros((CLASSES,), tl.float32)
    for first in range(0, count, PLACES):
        place = first + tl.arange(0, PLACES)
        at, inside, fy, fx, label, share, even = _places(
            place, count, columns, n, top, left, target, row_shares, column_shares, weight,
            height, width, ignore, smoothing, classes,
        )  # fmt: skip
        pull = share * (1.0 - smoothing)
        push = pull + even * weights
        log_mass = tl.load(mass + at, mask=inside, other=float("inf"))  # exp(s - inf) = 0: outside nothing is added
        slope = push[:, None] * tl.exp(_enlarged(a, b, c, d, fy, fx) - log_mass[:, None])
        slope -= tl.where(k[None, :] == label[:, None], pull[:, None], 0.0) + even[:, None] * of_class[None, :]
        lower = slope * fy[:, None]
        upper = slope - lower
        gb += tl.sum(upper * fx[:, None], 0)
        ga += tl.sum(upper * (1.0 - fx)[:, None], 0)
        gd += tl.sum(lower * fx[:, None], 0)
        gc += tl.sum(lower * (1.0 - fx)[:, None], 0)
    there = k < classes
    corner = out + cell.to(tl.int64) * 4 * classes + k
    tl.store(corner, ga, mask=there)
    tl.store(corner + classes, gb, mask=there)
    tl.store(corner + 2 * classes, gc, mask=there)
    tl.store(corner + 3 * classes, gd, mask=there)


def cross_entropy(
    small: Tensor,
    target: Tensor,
    weight: Tensor | None,
    *,
    align_corners: bool,
    ignore_index: int,
    smoothing: float,
    wanted: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Summed loss, summed shares of the places, and the gradient of the summed loss if `wanted`, as `upsampled.in_tiles`.

    `small` is float32 (N, C, h, w), `target` integer (N, H, W), no smaller than (h, w).
    """
    (batch, classes, h, w), (height, width) = small.shape, target.shape[1:]
    weight = small.new_ones(classes) if weight is None else weight
    rows, columns = _cells(h, height, align_corners, small), _cells(w, width, align_corners, small)
    sums, mass = small.new_empty(batch * h * w, 2), small.new_empty(target.shape)
    tensors = (
        small.permute(0, 2, 3, 1).contiguous(),
        target.contiguous(),
        torch.cat([weight, weight.sum().unsqueeze(0)]),
        *rows,
        *columns,
        mass,
    )
    numbers = (h, w, height, width, classes, ignore_index, smoothing)
    most = -(-height // h) * -(-width // w)  # places in a cell, but for those at the edges
    blocks = {
        "PLACES": min(64, max(16, triton.next_power_of_2(most))),
        "CLASSES": min(32, triton.next_power_of_2(classes)),
    }
    slope = None
    with torch.cuda.device_of(small):
        _loss_kernel[(batch * h * w,)](*tensors, sums, *numbers, **blocks)
        if wanted:
            corners = small.new_empty(batch, h, w, 4, classes)
            of_classes = triton.cdiv(classes, blocks["CLASSES"])
            _gradient_kernel[(batch * h * w, of_classes)](*tensors, corners, *numbers, **blocks)
            slope = _gathered(corners)
    total, whole = sums.sum(0)
    return total, whole, slope


def _cells(small: int, large: int, align_corners: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """Where each cell's places begin (small + 1), and each place's share of the way to the next cell (large)."""
    place = torch.arange(large, device=like.device, dtype=torch.float64)
    source = place * ((small - 1) / max(1, large - 1)) if align_corners else (place + 0.5) * (small / large) - 0.5
    source = source.clamp(0, small - 1)
    cell = source.floor()
    starts = torch.searchsorted(cell, torch.arange(small + 1, device=like.device, dtype=torch.float64))
    return starts.int(), (source - cell).to(like.dtype)


def _gathered(corners: Tensor) -> Tensor:
    """(N, h, w, 4, C) of the cells as (N, C, h, w): each score is a corner of four cells. Of the last row and column the
    places have no share beyond them, so there is nothing to fold back."""
    slope = corners[:, :, :, 0].clone()
    slope[:, :, 1:] += corners[:, :, :-1, 1]
    slope[:, 1:] += corners[:, :-1, :, 2]
    slope[:, 1:, 1:] += corners[:, :-1, :-1, 3]
    return slope.permute(0, 3, 1, 2).contiguous()
