"""Ranks by counting, held against a sort: crowded bins, ties, far outliers, and a margin that is wide."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from deepsup.tasks.feature_distances import Block, Exact
from deepsup.tasks.match_ranks import Own, ranks


class Given:
    """Distances that are given, in blocks of 5 x 11; those of the blocks are off by up to `off`."""

    device = torch.device("cpu")

    def __init__(self, table: Tensor, off: float) -> None:
        self.table, self.off, self.asked = table, off, 0

    @property
    def error(self) -> Tensor:
        return torch.full((len(self.table),), max(self.off, 1e-6) * 1.01, dtype=torch.float64)

    def exact(self, rows: Tensor, columns: Tensor) -> Exact:
        self.asked += len(rows)
        return Exact(self.table[rows, columns], self.table[rows, columns])

    def blocks(self) -> Iterator[Block]:
        wrong = self.table + self.off * (2 * torch.rand(self.table.shape, generator=torch.manual_seed(1)) - 1)
        for column in range(0, self.table.shape[1], 11):
            for row in range(0, len(self.table), 5):
                yield Block(row, column, wrong[row : row + 5, column : column + 11].float().contiguous())


TABLES = {
    "even": lambda t: t,
    "crowded": lambda t: 1e-3 * t,
    "outliers": lambda t: torch.where(t > 0.97, 1e4 * t, t),
    "ties": lambda t: (4 * t).floor() / 4,
    "all equal": lambda t: 0 * t,
}


@pytest.mark.parametrize("off", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("name", TABLES)
def test_ranks_are_those_of_a_stable_sort(name: str, off: float) -> None:
    chance = torch.manual_seed(0)
    table = TABLES[name](torch.rand(13, 90, generator=chance, dtype=torch.float64))
    kind = torch.randint(0, 4, table.shape, generator=chance)  # 0: match, 1: out of the ranking, else wrong
    kind[:, 0] = 0
    rows, columns = (kind < 2).nonzero().unbind(1)
    where, found = ranks(Given(table, off), Own(rows, columns, kind[rows, columns] == 0), 13)
    for row in range(13):
        order = [j for j in table[row].sort(stable=True).indices.tolist() if kind[row, j] != 1]
        assert found[where == row].tolist() == [r for r, j in enumerate(order, 1) if kind[row, j] == 0]


def test_only_what_float32_cannot_tell_is_computed_again() -> None:
    table = torch.linspace(0, 1, 1000, dtype=torch.float64)[None]
    keys = Given(table, 0.0)
    ranks(keys, Own(torch.tensor([0]), torch.tensor([500]), torch.tensor([True])), 1)
    assert keys.asked == 1  # the match itself
