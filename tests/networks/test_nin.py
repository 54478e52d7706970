"""The network in network of DSN against its release."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from deepsup import heads, networks
from deepsup.features import Feature
from tests.support.paper_nets import parameters, shapes

torch.set_num_threads(1)


class TestNin:
    def test_parameters_layer_by_layer(self) -> None:
        expected = [
            (3 * 25 + 1) * 192,
            (192 + 1) * 160,
            (160 + 1) * 96,
            (96 * 25 + 1) * 192,
            (192 + 1) * 192,
            (192 + 1) * 192,
            (192 * 9 + 1) * 192,
            (192 + 1) * 192,
            (192 + 1) * 10,
        ]
        model = networks.nin(classes=10)
        assert [parameters(layer) for layer in model if isinstance(layer, nn.Conv2d)] == expected
        assert parameters(model) == sum(expected) == 966_986

    def test_layers_of_the_release_in_order(self) -> None:
        released = (
            "conv1 relu1 cccp1 relu_cccp1 cccp2 relu_cccp2 pool1 drop1 "
            "conv2 relu2 cccp3 relu_cccp3 cccp4 relu_cccp4 pool2 drop2 "
            "conv3 relu3 cccp5 relu_cccp5 cccp6 pool3 flatten"
        )
        assert list(networks.nin(classes=10)._modules) == released.split()

    @pytest.mark.parametrize(("size", "sides"), [(32, (32, 16, 8)), (28, (28, 14, 7)), (4, (4, 2, 1))])
    def test_taps(self, size: int, sides: tuple[int, ...]) -> None:
        model = networks.nin(classes=10, in_channels=1)
        names = ["conv1", "conv2", "conv3"]
        assert shapes(model, names, size, channels=1) == [(192, side, side) for side in sides]
        assert model(torch.zeros(2, 1, size, size)).shape == (2, 10)

    @pytest.mark.parametrize(("side", "expected"), [(32, 1_966_090), (16, 491_530), (8, 122_890)])
    def test_companion_classifiers_of_dsn(self, side: int, expected: int) -> None:
        with torch.device("meta"):
            head = heads.linear(Feature((192, side, side), "NCHW"), 10)
        assert parameters(head) == expected

    def test_taps_lie_before_the_relu(self) -> None:
        model = networks.nin(classes=10).eval()
        seen: list[Tensor] = []
        model.get_submodule("conv1").register_forward_hook(lambda *found: seen.append(found[2]))
        model(torch.randn(1, 3, 8, 8))
        assert seen[0].min() < 0  # still, after all that followed

    def test_begins_as_released(self) -> None:
        torch.manual_seed(0)
        for layer in networks.nin(classes=10):
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                assert not layer.bias.any()
                assert abs(layer.weight.std().item() / 0.05 - 1) < 4 / math.sqrt(2 * layer.weight.numel())
