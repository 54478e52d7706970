"""Distances in blocks against float64, how far off they may be, and numbers that no block changes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from deepsup.tasks.feature_distances import Distances


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("width", "shift"), [(1, 0.0), (7, 0.0), (300, 0.0), (300, 500.0), (5000, 2.0)])
def test_blocks_are_off_by_less_than_they_say(distance: str, width: int, shift: float) -> None:
    chance = torch.manual_seed(width)
    q, g = torch.randn(150, width, generator=chance) + shift, torch.randn(333, width, generator=chance) + shift
    keys = Distances(q, g, distance, block=100).of(torch.arange(3, 150))
    rows, columns = torch.arange(147)[:, None].expand(147, 333).reshape(-1), torch.arange(333).repeat(147)
    exact = keys.exact(rows, columns)
    table, seen = exact.place.view(147, 333), 0
    for row, column, values in keys.blocks():
        height, across = values.shape
        off = (values - table[row : row + height, column : column + across]).abs()
        assert (off < keys.error[row : row + height, None]).all()
        seen += values.numel()
    assert seen == 147 * 333
    assert keys.error.max() < 1e-3 * table.abs().max()  # and that is worth something
    q, g = q[3:].double(), g.double()
    near = torch.nn.functional.normalize(q) @ torch.nn.functional.normalize(g).T
    expected = -near if distance == "cosine" else torch.cdist(q, g) ** 2
    assert torch.equal(exact.key.view(147, 333).argsort(1)[:, :20], expected.argsort(1)[:, :20]) or width == 1


def test_equal_images_have_equal_numbers_however_many_are_asked_for() -> None:
    q, one = torch.randn(2, 2000), torch.randn(1, 2000)
    g = torch.cat([torch.randn(5, 2000), one, torch.randn(700, 2000), one])
    for distance in ("cosine", "euclidean"):
        keys = Distances(q, g, distance).of(torch.tensor([1]))
        alone = keys.exact(torch.tensor([0]), torch.tensor([5])).key
        all_ = keys.exact(torch.zeros(len(g), dtype=torch.int64), torch.arange(len(g))).key
        assert alone[0] == all_[5] == all_[-1]


def test_chosen_images_are_the_columns() -> None:
    g = torch.arange(1.0, 6.0)[:, None]
    keys = Distances(torch.zeros(1, 1), g, "euclidean", chosen=torch.tensor([1, 4])).of(torch.tensor([0]))
    found = keys.exact(torch.tensor([0, 0]), torch.tensor([0, 1])).key
    assert found[1] / found[0] == 25 / 4
    assert [block.values.shape for block in keys.blocks()] == [(1, 2)]


NEWER = """
import torch

torch.backends.mkldnn.matmul.fp32_precision = "bf16"
from deepsup.tasks.feature_distances import Distances, full_precision

with full_precision(torch.device("cpu")):
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
"""


def test_the_newer_switches_of_precision_are_put_back_too() -> None:
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this PyTorch has the older switch alone")
    subprocess.run([sys.executable, "-c", NEWER], check=True, timeout=120)
