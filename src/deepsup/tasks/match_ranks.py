"""At which ranks the matches of a query lie, by counting what is nearer: no ranking is held, and nothing is sorted.

Every gallery image falls into one of `BINS` of its query, which are spread over its matches' distances. Where a bin holds
no match, a count is enough; the few images of the other bins are held against the matches one by one, and where float32
cannot tell, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from deepsup.tasks.feature_distances import Block, Exact

BINS = 2048


class Keys(Protocol):
    """Distances of some queries to the gallery, as `QueryDistances` gives them."""

    @property
    def device(self) -> torch.device:
        """Where blocks are."""

    @property
    def error(self) -> Tensor:
        """By how much a number of a block may be off (R,)."""

    def exact(self, rows: Tensor, columns: Tensor) -> Exact:
        """Of pairs."""

    def blocks(self) -> Iterator[Block]:
        """Of all."""


@dataclass
class Own:
    """The gallery images of the queries' own identities, by query, each query's in gallery order."""

    rows: Tensor  # (n,) query
    columns: Tensor  # (n,) gallery image
    match: Tensor  # (n,) whether it is a match; otherwise it is out of the ranking


def ranks(keys: Keys, own: Own, queries: int) -> tuple[Tensor, Tensor]:
    """Query and rank (from 1) of every match, query by query, from the nearest on; ties go by gallery order."""
    sought = _Sought(keys, own, queries)
    for block in keys.blocks():
        sought.count(block)
    return sought.rows, sought.ranks()


class _Sought:
    """The matches in order of query, distance and gallery, and what was counted so far between them.

    Numbers of matches and single images are on the CPU, bins where the features are.
    """

    def __init__(self, keys: Keys, own: Own, queries: int) -> None:
        self.keys, self.own, self.queries = keys, own, queries
        rows, columns = own.rows[own.match], own.columns[own.match]
        exact = keys.exact(rows, columns)
        order = exact.key.sort(stable=True).indices
        order = order[rows[order].sort(stable=True).indices]
        self.rows, self.columns, self.key = rows[order], columns[order], exact.key[order]
        place, error = exact.place[order], keys.error[self.rows]
        self.low, self.high = (place - error).float(), (place + error).float()
        self.starts = torch.searchsorted(self.rows, torch.arange(queries + 1))
        first, last = self.starts[:-1], self.starts[1:] - 1
        width = (self.high[last] - self.low[first]).clamp(min=1e-30) / (BINS - 3)
        self.least, self.width = (self.low[first] - width).to(keys.device), width.to(keys.device)
        self.counts = torch.zeros(queries * BINS, dtype=torch.int32, device=keys.device)
        self.few = torch.zeros(len(self.rows) + queries, dtype=torch.int64)  # images before each match, and after all
        self.begins = self._bins(self.low)
        begun, ended = (
            torch.bincount(bins, minlength=queries * BINS).cumsum(0, dtype=torch.int32)
            for bins in (self.begins, self._bins(self.high))
        )
        self.begun, self.ended = begun.cpu(), torch.cat([ended.new_zeros(1), ended[:-1]]).cpu()
        self.held = (self.begun != self.ended).to(keys.device)  # which bins hold a match

    def _bins(self, values: Tensor) -> Tensor:
        """The bin of each match, by the formula of `count`: what is nearer is in no later bin."""
        rows = self.rows.to(self.least.device)
        found = values.to(rows.device).sub(self.least[rows]).div_(self.width[rows]).clamp_(0, BINS - 1)
        return found.int() + rows.int() * BINS

    def count(self, block: Block) -> None:
        """Count the images of a block, but for those of the query's own identity."""
        values, (height, width) = block.values, block.values.shape
        values[self._own_in(block)] = torch.inf
        rows, bins = slice(block.row, block.row + height), slice(block.row * BINS, (block.row + height) * BINS)
        found = torch.sub(values, self.least[rows, None]).div_(self.width[rows, None]).clamp_(0, BINS - 1).int()
        found = found.add_(torch.arange(height, dtype=torch.int32, device=values.device)[:, None] * BINS).view(-1)
        self.counts[bins] += torch.bincount(found, minlength=height * BINS)
        single = self.held[bins].index_select(0, found).nonzero().flatten()
        there = single.cpu()
        parts = (
            found.index_select(0, single).cpu() + bins.start,
            values.reshape(-1).index_select(0, single).cpu(),
            there // width + block.row,
            there % width + block.column,
        )
        for part in zip(*(torch.split(column, 2**16) for column in parts), strict=True):
            self._compare(*part)

    def _own_in(self, block: Block) -> tuple[Tensor, Tensor]:
        """Rows and columns of a block that are of the query's own identity."""
        height, width = block.values.shape
        ends = torch.searchsorted(self.own.rows, torch.tensor([block.row, block.row + height])).tolist()
        rows, columns = self.own.rows[slice(*ends)] - block.row, self.own.columns[slice(*ends)] - block.column
        inside = (columns >= 0) & (columns < width)
        return rows[inside].to(block.values.device), columns[inside].to(block.values.device)

    def _compare(self, bins: Tensor, values: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Hold single images against the matches of their bin."""
        low = self._bisect(self.ended[bins], self.begun[bins], lambda m: self.high[m] < values)
        high = self._bisect(low, self.begun[bins], lambda m: self.low[m] <= values)
        near = (low != high).nonzero().flatten()
        if len(near):
            columns = columns[near]
            key = self.keys.exact(rows[near], columns).key

            def nearer(m: Tensor) -> Tensor:
                return (self.key[m] < key) | ((self.key[m] == key) & (self.columns[m] < columns))

            low[near] = self._bisect(low[near], high[near], nearer)
        self.few += torch.bincount(low + rows, minlength=len(self.few))

    def _bisect(self, low: Tensor, high: Tensor, before: Callable[[Tensor], Tensor]) -> Tensor:
        """Of each image the first match from `low` up to `high` for which `before` does not hold, all at once."""
        while True:
            left = low < high
            if not left.any():
                return low
            middle = ((low + high) // 2).clamp(max=len(self.rows) - 1)
            passed = before(middle) & left
            low, high = torch.where(passed, middle + 1, low), torch.where(passed | ~left, high, middle)

    def ranks(self) -> Tensor:
        """The rank of each match: those before it among the matches, in whole bins, and one by one."""
        whole = self.counts.masked_fill(self.held, 0).view(self.queries, BINS).cumsum(1, dtype=torch.int32)
        few = torch.cat([self.few.new_zeros(1), self.few.cumsum(0)])
        index, start = torch.arange(len(self.rows)), self.starts[self.rows]
        single = few[index + self.rows + 1] - few[start + self.rows]
        return index - start + 1 + whole.view(-1)[self.begins].cpu().long() + single
