"""What heads are made of: chains that lead to a size and a width."""

from __future__ import annotations

from torch import nn

from deepsup import heads
from deepsup.features import Feature
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
