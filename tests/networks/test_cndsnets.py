"""The networks of CNDS against their release."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup import networks
from deepsup.errors import ConfigError
from deepsup.networks.cndsnets import BRANCH_LAYERS
from tests.support.paper_nets import on_meta, parameters, shapes

torch.set_num_threads(1)

COUNTED = {nn.Conv2d, nn.Linear}


class TestCnds:
    CONVOLUTIONS_8 = (
        ("conv1", 64, 7, 2),
        ("conv2", 128, 3, 1),
        ("conv3_1", 256, 3, 1),
        ("conv3_2", 256, 3, 1),
        ("conv4_1", 512, 3, 1),
        ("conv4_2", 512, 3, 1),
        ("conv5_1", 512, 3, 1),
        ("conv5_2", 512, 3, 1),
    )

    def test_convolutions_of_the_release(self) -> None:
        model = on_meta("deepsup:cnds-8", classes=205)
        found = [(n, m) for n, m in model.named_children() if isinstance(m, nn.Conv2d)]
        assert tuple((n, m.out_channels, m.kernel_size[0], m.stride[0]) for n, m in found) == self.CONVOLUTIONS_8
        assert {m.padding for _, m in found} == {(1, 1)}
        assert parameters(model) == 60_407_885

    @pytest.mark.parametrize(("size", "first"), [(227, 112), (224, 110)])
    def test_sizes_round_up_as_caffe_does(self, size: int, first: int) -> None:
        model = on_meta("deepsup:cnds-8", size=size)
        names = ["conv1", "pool1", "pool2", "pool3", "pool4", "pool5", "fc6", "fc8"]
        pooled = -(-(first - 3) // 2) + 1
        sides = [first, pooled, 28, 14, 7, 4]
        widths = [64, 64, 128, 256, 512, 512]
        expected = [(width, side, side) for width, side in zip(widths, sides, strict=True)]
        assert shapes(model, names, size) == [*expected, (4096,), (10,)]

    @pytest.mark.parametrize(("convolutions", "numbers"), [(8, [4]), (13, [4, 7, 10])])
    def test_branches_follow_the_convolutions_of_the_paper(self, convolutions: int, numbers: list[int]) -> None:
        order = list(on_meta(f"deepsup:cnds-{convolutions}")._modules)
        convs = [name for name in order if name.startswith("conv")]
        assert len(convs) == convolutions
        for layer, number in zip(BRANCH_LAYERS[convolutions], numbers, strict=True):
            place = order.index(layer)
            assert order[place - 1] == convs[number - 1]
            assert order[place + 1].startswith("pool")

    @pytest.mark.parametrize("spec", ["cnds-8", "cnds-13"])
    @pytest.mark.parametrize("size", [8, 28, 32, 64])
    def test_smaller_images(self, spec: str, size: int) -> None:
        model = on_meta(f"deepsup:{spec}", in_channels=1, size=size)
        assert shapes(model, ["fc8"], size, channels=1) == [(10,)]

    def test_begins_as_released(self) -> None:
        torch.manual_seed(0)
        model = networks.cnds_net(8, classes=10, size=32)
        for layer in model:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                assert abs(layer.weight.std().item() / 0.01 - 1) < 4 / math.sqrt(2 * layer.weight.numel())
        biases = {name: layer.bias for name, layer in model.named_children() if type(layer) in COUNTED}
        values = {name: bias.unique().tolist() for name, bias in biases.items() if isinstance(bias, Tensor)}
        others = {name: pytest.approx([0.1]) for name, *_ in self.CONVOLUTIONS_8[1:]}
        assert values == {"conv1": [0.5], **others, "fc6": [1.0], "fc7": [1.0], "fc8": [0.0]}

    def test_biases_of_zero(self) -> None:
        model = networks.cnds_net(8, classes=10, size=8, biases="zero")
        assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))

    def test_gradients_fade_towards_the_input(self) -> None:
        torch.manual_seed(0)
        model = networks.cnds_net(13, classes=10, size=32).eval()
        F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
        mean = {name: p.grad.abs().mean().item() for name, p in model.named_parameters() if p.grad is not None}
        assert mean["conv1_1.weight"] < 1e-6 < 1e-4 < mean["fc6.weight"]

    @pytest.mark.parametrize(
        ("spec", "more", "message"),
        [
            ("cnds-9", {}, "networks of 8 and of 13 convolutions, none of 9"),
            ("cnds-8", {"size": 4}, "4x4 is too small"),
            ("cnds-8", {"options": {"biases": "one"}}, "'one' must be one of released, zero"),
            ("cnds-8", {"options": {"size": 32}}, "no option size. It takes: dropout, biases"),
        ],
    )
    def test_says_why_not(self, spec: str, more: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            on_meta(f"deepsup:{spec}", **more)
