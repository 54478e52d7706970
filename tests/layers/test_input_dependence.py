"""What follows from the model's input, by whatever operations, and what only stands beside it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup.layers.input_dependence import Lineage


def into_place(x: Tensor) -> Tensor:
    y = torch.zeros(4, 6)
    y[:, 2:] = x
    return y


def within_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x,
        lambda x: x[1:],
        lambda x: x.t().reshape(2, 8),
        lambda x: F.linear(x, torch.randn(3, 4)) + 1,
        lambda x: x.int(),
        lambda x: torch.cat([torch.zeros(1, 4), x]),
        lambda x: x.detach(),
        lambda x: x.chunk(2)[1],
        into_place,
        within_no_grad,
    ],
)
def test_whatever_is_computed_from_the_input_follows_from_it(compute: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(4, 4)
    with Lineage({"x": [x]}) as lineage:
        y = compute(x)
    assert lineage.follows(y)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: torch.arange(4.0).expand(4, 4),
        lambda x: torch.ones(x.shape).cumsum(0),
        lambda x: torch.randn(3, 4) @ torch.randn(4, 4),
    ],
)
def test_what_only_has_the_shape_of_the_input_does_not_follow(compute: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(4, 4)
    with Lineage(x) as lineage:
        kept = x * 2
        y = compute(x)
    assert lineage.follows(kept)
    assert not lineage.follows(y)


def test_memory_that_is_used_again_loses_its_mark() -> None:
    x = torch.randn(256, 256)
    with Lineage(x) as lineage:
        for _ in range(50):
            y = x * 2
            assert lineage.follows(y)
            del y  # where this lay the next may lie
            assert not lineage.follows(torch.ones(256, 256))
