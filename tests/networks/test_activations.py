"""Activations by name: their values, what they learn or draw, and their place in a U-Net."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks.activations import ACTIVATIONS, activation
from deepsup.networks.unets import unet
from tests.support.paper_nets import parameters

torch.set_num_threads(1)


def small(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return unet(classes=2, widths=(4, 8, 16), **options)


class TestActivations:
    def test_each_is_of_its_kind(self) -> None:
        kinds = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "prelu": nn.PReLU, "rrelu": nn.RReLU}
        assert set(kinds) == set(ACTIVATIONS)
        for name, kind in kinds.items():
            layers = [m for m in small(activation=name).modules() if isinstance(m, tuple(kinds.values()))]
            assert len(layers) == 10  # five levels of two convolutions
            assert all(type(m) is kind for m in layers)
            assert not any(getattr(m, "inplace", False) for m in layers)

    def test_prelu_learns_a_slope_a_channel_or_a_layer(self) -> None:
        plain = parameters(small())
        assert parameters(small(activation="prelu")) == plain + 2 * (4 + 8 + 16 + 8 + 4)
        assert parameters(small(activation="prelu(shared=True)")) == plain + 10
        layer = activation("prelu(slope=0.1)", 3)
        x = torch.tensor([-2.0, -1.0, 3.0]).reshape(1, 3, 1)
        assert torch.allclose(layer(x).flatten(), torch.tensor([-0.2, -0.1, 3.0]))

    def test_leaky_relu_takes_a_hundredth(self) -> None:
        assert activation("leaky_relu", 3).negative_slope == 0.01  # type: ignore[union-attr]
        assert activation("leaky_relu(slope=0.2)", 3)(torch.tensor(-1.0)).item() == pytest.approx(-0.2)

    def test_rrelu_draws_its_slope_in_training_and_takes_the_mean_afterwards(self) -> None:
        layer = activation("rrelu", 3)
        x = -torch.ones(20_000)
        torch.manual_seed(0)
        slopes = -layer(x)
        assert 0.125 <= slopes.min() < 0.127
        assert 0.331 < slopes.max() <= 0.3334
        assert slopes.mean().item() == pytest.approx((1 / 8 + 1 / 3) / 2, abs=0.003)
        assert slopes.var().item() == pytest.approx((1 / 3 - 1 / 8) ** 2 / 12, rel=0.05)  # of a uniform distribution
        assert not torch.equal(slopes, -layer(x))
        layer.eval()
        assert torch.allclose(-layer(x), torch.full_like(x, 11 / 48))
        assert torch.equal(layer(-x), -x)

    def test_rrelu_in_a_network(self) -> None:
        model = small(activation="rrelu", dropout=0.0, norm=None)
        x = torch.randn(1, 3, 16, 16)
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("gelu", "no activation is called 'gelu'.*Activations: relu, leaky_relu, prelu, rrelu"),
            ("leaky_relu(0.1)", "Options are written by name"),
            ("leaky_relu(alpha=0.1)", "activation 'leaky_relu' has no option 'alpha'. Options: slope"),
            ("leaky_relu(slope=1)", "needs slope to be a number of at least 0 and below 1; found 1"),
            ("prelu(slope='steep')", "needs slope to be .*; found 'steep'"),
            ("rrelu(lower=0.4)", "lower must not be above upper"),
            ("relu(slope=0.1)", "Options: none"),
            (None, "no activation is called None"),
        ],
    )
    def test_says_why_not(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            small(activation=text)
