"""k-reciprocal re-ranking (Zhong et al. 2017): images are near that have the same neighbours.

d' is the squared distance over the largest in its row, of query and gallery images together (N = Q + G). With N(p, k) the k
nearest of p, p first:

    R(p, k) = {g in N(p, k + 1): p in N(g, k + 1)}
    R*(p) = R(p, k1) and every R(q, k1 / 2), q in R(p, k1), of which more than two thirds lie in R(p, k1)
    V_p[g] = exp(-d'(p, g)) on R*(p), summing to 1; then the mean of V over N(p, k2)
    d_J(p, g) = 1 - S / (2 - S),  S = sum_j min(V_p[j], V_g[j])
    d(p, g) = (1 - weight) d_J(p, g) + weight d'(p, g)

Only the neighbours and the entries of V that are not 0 are held, and of d the rows of a few queries: nothing of N x N.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deepsup.errors import ConfigError
from deepsup.specs import is_number
from deepsup.tasks.feature_distances import Block, Distances, Exact, QueryDistances
from deepsup.tasks.nearest import nearest

CELLS = 2**20  # numbers in a table of some queries by all gallery images, and entries that are compared at once
ROWS = 2048  # images whose neighbours' neighbours are listed at once


@dataclass(frozen=True)
class KReciprocal:
    """How to re-rank, as published. Raises `ConfigError` for numbers out of range."""

    k1: int = 20
    k2: int = 6
    weight: float = 0.3  # of the distance itself, in [0, 1]: lambda

    def __post_init__(self) -> None:
        for name in ("k1", "k2"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"re-ranking needs {name} to be a whole number of at least 1; found {value!r}.")
        if not is_number(self.weight) or not 0 <= self.weight <= 1:
            raise ConfigError(f"re-ranking needs weight to be a number from 0 to 1; found {self.weight!r}.")


class Rows(NamedTuple):
    """A sparse matrix with N rows, each row's columns in ascending order."""

    starts: Tensor  # (N + 1,)
    columns: Tensor  # (n,)
    values: Tensor  # (n,) float64

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The entries of some rows: which of these rows each is of, and where it stands."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        which = torch.arange(len(rows)).repeat_interleave(lengths)
        within = torch.arange(len(which)) - (lengths.cumsum(0) - lengths)[which]
        return which, self.starts[rows][which] + within


class Reranked:
    """Re-ranked distances of queries to the gallery images `chosen`; neighbours are sought among all images."""

    def __init__(self, query: Tensor, gallery: Tensor, distance: str, how: KReciprocal, *, chosen: Tensor) -> None:
        Distances(query, gallery, distance)  # raises what is wrong with either, by its name
        every = torch.cat([query.detach(), gallery.detach()])
        distances = Distances(every, every, distance)
        self.weight, self.size = how.weight, len(every)
        near, far = nearest(distances, max(how.k1 + 1, how.k2))
        own = distances.of(torch.arange(self.size))
        largest = own.squares(torch.arange(self.size), far)
        self.largest = torch.where(largest > 0, largest, torch.inf)  # where all images are one, none is far
        shares = _shares(own, _reciprocal(near, how.k1), self.largest)
        shares = _expanded(shares, near[:, : how.k2]) if how.k2 > 1 else shares
        self.shares, self.distances = shares, distances.among(len(query) + chosen)
        self.inverse = self._inverse(len(query) + chosen)
        self.at_once = max(1, min(distances.at_once, CELLS // max(1, len(chosen))))

    def _inverse(self, chosen: Tensor) -> Rows:
        """V of the chosen images by its columns: which of them have an entry there."""
        which, at = self.shares.of(chosen)
        columns, order = self.shares.columns[at].sort(stable=True)
        return Rows(
            torch.searchsorted(columns, torch.arange(self.size + 1)), which[order], self.shares.values[at][order]
        )

    def of(self, rows: Tensor) -> RerankedQueries:
        """Those of a few queries."""
        return RerankedQueries(self, self.distances.of(rows), self._jaccard(rows))

    def _jaccard(self, rows: Tensor) -> Tensor:
        """d_J (R, C) in float64."""
        across = len(self.distances.chosen)
        common = torch.zeros(len(rows) * across, dtype=torch.float64)
        which, at = self.shares.of(rows)
        columns, values = self.shares.columns[at], self.shares.values[at]
        lengths = (self.inverse.starts[columns + 1] - self.inverse.starts[columns]).cumsum(0)
        _, sizes = torch.unique_consecutive(lengths // (CELLS // 4), return_counts=True)
        for part in torch.split(torch.arange(len(which)), sizes.tolist()):
            entry, place = self.inverse.of(columns[part])
            least = torch.minimum(values[part][entry], self.inverse.values[place])
            common.index_add_(0, which[part][entry] * across + self.inverse.columns[place], least)
        return common.div_(2 - common).neg_().add_(1).view(len(rows), across)


@dataclass
class RerankedQueries:
    """The re-ranked distances of some queries."""

    whole: Reranked
    plain: QueryDistances
    jaccard: Tensor  # (R, C)

    @property
    def device(self) -> torch.device:
        """Where blocks are."""
        return self.plain.device

    @property
    def _scale(self) -> Tensor:
        return self.whole.weight / self.whole.largest[self.plain.index.cpu()]

    @property
    def error(self) -> Tensor:
        """By how much a float32 number may be off (R,)."""
        return self._scale * self.plain.error + 2.0**-21

    def exact(self, rows: Tensor, columns: Tensor) -> Exact:
        """Of pairs, on the CPU."""
        found = (1 - self.whole.weight) * self.jaccard[rows, columns]
        found = found + self._scale[rows] * self.plain.squares(rows, columns)
        return Exact(found, found)

    def blocks(self) -> Iterator[Block]:
        """All of them in float32."""
        for row, column, values in self.plain.blocks():
            rows, columns = slice(row, row + len(values)), slice(column, column + values.shape[1])
            scale = self._scale[rows, None].to(values.device)
            far = scale * (values + self.plain.base[rows, None].to(values.device))
            near = self.jaccard[rows, columns].to(values.device)
            yield Block(row, column, ((1 - self.whole.weight) * near + far).float())


def _reciprocal(near: Tensor, k1: int) -> tuple[Tensor, Tensor]:
    """R* (n,), (n,): pairs of an image and one of its neighbours, in order."""
    size = len(near)
    whole, half = _mutual(near[:, : k1 + 1]), _mutual(near[:, : round(k1 / 2) + 1])
    table = Rows(torch.searchsorted(half, torch.arange(size + 1) * size), half % size, half)
    codes = [whole]
    for part in range(0, size, ROWS):
        ends = torch.searchsorted(whole, torch.tensor([part, part + ROWS]) * size).tolist()
        p, q = whole[slice(*ends)] // size, whole[slice(*ends)] % size
        which, at = table.of(q)
        candidates = p[which] * size + table.columns[at]
        inside = _contains(whole, candidates)
        common = torch.bincount(which[inside], minlength=len(q))
        taken = 3 * common > 2 * torch.bincount(which, minlength=len(q))
        codes.append(torch.unique(candidates[taken[which]]))
    found = torch.unique(torch.cat(codes))
    return found // size, found % size


def _mutual(near: Tensor) -> Tensor:
    """Codes p N + g, ascending, of the pairs that are each among the other's neighbours."""
    size = len(near)
    p = torch.arange(size)[:, None]
    codes = (p * size + near).flatten().sort().values
    return codes[_contains(codes, codes % size * size + codes // size)]


def _contains(ascending: Tensor, codes: Tensor) -> Tensor:
    at = torch.searchsorted(ascending, codes).clamp(max=len(ascending) - 1)
    return ascending[at] == codes


def _shares(own: QueryDistances, pairs: tuple[Tensor, Tensor], largest: Tensor) -> Rows:
    """V: exp(-d') on the pairs, each row summing to 1."""
    p, g = pairs
    weight = torch.exp(-own.squares(p, g) / largest[p])
    total = torch.zeros_like(largest).index_add_(0, p, weight)
    return Rows(torch.searchsorted(p, torch.arange(len(largest) + 1)), g, weight / total[p])


def _expanded(shares: Rows, near: Tensor) -> Rows:
    """The mean of V over each image's nearest."""
    size, codes, values = len(near), [], []
    for part in torch.split(torch.arange(size), ROWS):
        which, at = shares.of(near[part].flatten())
        code, where = torch.unique((part[0] + which // near.shape[1]) * size + shares.columns[at], return_inverse=True)
        codes.append(code)
        values.append(
            torch.zeros(len(code), dtype=torch.float64).index_add_(0, where, shares.values[at] / near.shape[1])
        )
    code = torch.cat(codes)
    return Rows(torch.searchsorted(code, torch.arange(size + 1) * size), code % size, torch.cat(values))
