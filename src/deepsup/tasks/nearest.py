"""Which gallery images are nearest, exactly: float32 proposes, float64 decides, equal distances in gallery order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deepsup.tasks.feature_distances import CELLS, Distances, QueryDistances

SPARE = 8  # neighbours more than asked for, so that float32 seldom leaves out one that belongs


class Neighbours(NamedTuple):
    """Columns of the gallery, for each query."""

    near: Tensor  # (Q, count), the nearest first
    far: Tensor  # (Q,), one of the farthest, as float32 sees it


def nearest(distances: Distances, count: int) -> Neighbours:
    """The `count` nearest gallery images of every query, all where there are fewer."""
    count = min(count, len(distances.chosen))
    found = [
        _of(distances.of(rows), count) for rows in torch.split(torch.arange(len(distances.query)), distances.at_once)
    ]
    return Neighbours(torch.cat([n.near for n in found]), torch.cat([n.far for n in found]))


def _of(keys: QueryDistances, count: int) -> Neighbours:
    kept = min(count + SPARE, len(keys.whole.chosen))
    values = torch.full((len(keys.index), kept), torch.inf, device=keys.device)
    columns = torch.zeros(values.shape, dtype=torch.int64, device=keys.device)
    highest, far = torch.full_like(values[:, 0], -torch.inf), columns[:, 0].clone()
    for row, column, block in keys.blocks():
        rows = slice(row, row + len(block))
        found = block.topk(min(kept, block.shape[1]), largest=False)
        both = torch.cat([values[rows], found.values], 1).topk(kept, largest=False)
        columns[rows] = torch.cat([columns[rows], found.indices + column], 1).gather(1, both.indices)
        values[rows] = both.values
        top = block.max(1)
        far[rows] = torch.where(top.values > highest[rows], top.indices + column, far[rows])
        highest[rows] = torch.maximum(top.values, highest[rows])
    columns = columns.cpu().sort().values
    exact = keys.exact(torch.arange(len(columns)).repeat_interleave(kept), columns.view(-1))
    order = exact.key.view_as(columns).sort(stable=True).indices[:, :count]
    near = columns.gather(1, order)
    last = exact.place.view_as(columns).gather(1, order)[:, -1]
    # What was left out is at least as far as the farthest kept one, less the error.
    unsure = (last >= values.cpu().double().amax(1) - keys.error) & (kept < len(keys.whole.chosen))
    for part in torch.split(unsure.nonzero().flatten(), max(1, 4 * CELLS // len(keys.whole.chosen))):
        if not len(part):
            break
        again = QueryDistances(keys.whole, keys.index[part.to(keys.index.device)])
        near[part] = _among(again, last[part] + keys.error[part], count)
    return Neighbours(near, far.cpu())


def _among(keys: QueryDistances, bound: Tensor, count: int) -> Tensor:
    """The nearest of all images that float32 sees within the bound (R,), of which there are at least `count`."""
    pairs = []
    for row, column, block in keys.blocks():
        limit = bound[row : row + len(block), None].to(block.device)
        pairs.append(((block <= limit).nonzero() + torch.tensor([row, column], device=block.device)).cpu())
    rows, columns = torch.cat(pairs).unbind(1)
    order = columns.sort(stable=True).indices
    for key in (keys.exact(rows, columns).key, rows):
        order = order[key[order].sort(stable=True).indices]
    starts = torch.searchsorted(rows[order], torch.arange(len(bound)))
    return columns[order][starts[:, None] + torch.arange(count)]
