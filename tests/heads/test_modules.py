"""What heads are made of: chains that lead to a size and a width."""

from __future__ import annotations

import torch
from torch import nn

from deepsup import heads
from deepsup.features import Feature
from deepsup.heads.modules import filled
from tests.support.activations import parameters
from tests.support.small_nets import CLASSES


def test_a_chain_that_does_not_double_widens_in_equal_ratios() -> None:
    head = heads.build("sepconv(channels=100, steps=2)", Feature((25, 8, 8), "NCHW"), CLASSES)
    widths = [m.num_features for m in head.modules() if isinstance(m, nn.BatchNorm2d)]
    assert widths == [25, 50, 50, 100]


def test_a_chain_without_a_step_only_changes_the_channels() -> None:
    head = heads.build("sepconv(channels=10, steps=0)", Feature((6, 8, 8), "NCHW"), CLASSES)
    maps = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert [m.stride for m in maps] == [(1, 1)] * 4
    assert maps[-1].out_channels == 10
    same = heads.build("sepconv(steps=0)", Feature((6, 8, 8), "NCHW"), CLASSES)
    assert parameters(same) == 6 * CLASSES + CLASSES


def test_a_filler_begins_as_caffes_does() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 30, 3), nn.Linear(100, 40))
    filled(net, "xavier", biases=(0.5, 0))
    for layer, fan_in in zip(net, (36, 100), strict=True):
        bound = (3 / fan_in) ** 0.5
        assert 0.97 * bound < layer.weight.abs().max() <= bound
        assert abs(layer.weight.std().item() / (bound / 3**0.5) - 1) < 0.1
    assert net[0].bias.tolist() == [0.5] * 30
    assert not net[1].bias.any()
    filled(net, "gaussian", biases=(0, 1))
    assert abs(net[1].weight.std().item() / 0.01 - 1) < 0.1
    assert net[1].bias.tolist() == [1.0] * 40
