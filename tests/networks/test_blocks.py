"""Counts, depths and initial weights that several networks share."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deepsup import networks
from deepsup.errors import ConfigError
from deepsup.networks.blocks import repeats
from tests.support.paper_nets import SMALL

torch.set_num_threads(1)


@pytest.mark.parametrize("spec", [s for s in SMALL if s != "nin"])
def test_convolutions_begin_as_he_et_al_draw_them(spec: str) -> None:
    torch.manual_seed(0)
    model = networks.build(f"deepsup:{spec}", classes=5, options=SMALL[spec])
    drawn = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            drawn.append(layer.weight.detach().flatten() / math.sqrt(2 / fan_out))
        elif isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.weight == 1).all())
            assert not layer.bias.any()
    values = torch.cat(drawn)
    assert abs(values.std().item() - 1) < 4 / math.sqrt(2 * len(values))
    assert abs(values.mean().item()) < 4 / math.sqrt(len(values))
    assert values.abs().max() > 2.9  # a normal, not a uniform one


@pytest.mark.parametrize(("depth", "closest"), [(33, "32 and 38"), (2, "8"), (0, "8")])
def test_a_depth_that_there_is_not_names_those_next_to_it(depth: int, closest: str) -> None:
    with pytest.raises(ConfigError, match=rf"'net' cannot be built: its depth is 6n\+2.*Closest: {closest}\."):
        repeats(depth, step=6, rest=2, network="net")
    assert repeats(32, step=6, rest=2, network="net") == 5
