"""What a head costs, against counts by hand, and counts as they are printed."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from deepsup.costs import Price, millions, price
from deepsup.errors import HeadError
from deepsup.features import Feature

MAP = Feature((16, 8, 8), "NCHW")


def test_a_linear_layer_costs_what_the_hand_counts() -> None:
    # 16 means, then 10 x 16 weights and 10 biases; a multiplication and an addition for each weight
    assert price("early", "pool", MAP, 10) == Price((2, 10), 170, 2 * 160, 4 * (16 + 10))


def test_a_convolutional_head_costs_what_the_hand_counts() -> None:
    def head(feature: Feature, classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(feature.channels, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, classes))

    found = price("early", head, MAP, 5)
    assert found.shape == (2, 5)
    assert found.params == (16 * 4 * 9 + 4) + (256 * 5 + 5)
    assert found.flops == 2 * (64 * 16 * 4 * 9 + 256 * 5)
    assert found.activation_bytes == 4 * (256 + 256 + 5)


def test_a_head_as_large_as_a_house_is_priced_at_once() -> None:
    found = price("early", "linear", Feature((4096, 512, 512), "NCHW"), 100_000)
    assert found.params == 4096 * 512 * 512 * 100_000 + 100_000  # 400 TB, were it built


def test_pricing_moves_no_random_number_and_no_module() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1024), nn.Linear(1024, 5))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    price("early", module, MAP, 5)
    price("early", "cnds", MAP, 5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not any(m._forward_hooks for m in module.modules())


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (nn.Linear(3, 5), r"the head of branch 'early' \(custom:Linear\) cannot read an activation of 16x8x8 a sample"),
        (nn.LazyLinear(5), "the head of branch 'early' has lazy parameters without a shape"),
        (Pair(), "the head of branch 'early' returned tuple; it must return one tensor"),
        ("poool", "no head is called 'poool'"),
    ],
)
def test_a_head_that_cannot_be_priced_is_a_head_error(head: nn.Module | str, says: str) -> None:
    with pytest.raises(HeadError, match=says):
        price("early", head, MAP, 5)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (650, "650"),
        (1000, "1k"),
        (1290, "1.29k"),
        (999_999, "1M"),
        (11_200_000, "11.2M"),
        (2_961_234_567, "2.96G"),
    ],
)
def test_counts_are_printed_to_three_digits(count: int, text: str) -> None:
    assert millions(count) == text
