"""Plain networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepsup import networks

torch.set_num_threads(1)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


class TestPlain:
    def test_twelve_convolutions_in_three_stages(self) -> None:
        model = networks.build("deepsup:plain-12", classes=10, in_channels=1)
        assert [layer.out_channels for layer in convolutions(model)] == [16] * 4 + [32] * 4 + [64] * 4
        assert [layer.stride[0] for layer in convolutions(model)] == [1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1]
        assert {layer.kernel_size for layer in convolutions(model)} == {(3, 3)}
        names = [name for name, _ in model.named_children()]
        assert names[:4] == ["conv1", "relu1", "conv2", "relu2"]
        assert names[-5:] == ["conv12", "relu12", "pool", "flatten", "fc"]

    @pytest.mark.parametrize(("depth", "stages"), [(3, [1, 1, 1]), (7, [3, 2, 2]), (13, [5, 4, 4]), (14, [5, 5, 4])])
    def test_extra_convolutions_go_to_the_first_stages(self, depth: int, stages: list[int]) -> None:
        widths = [layer.out_channels for layer in convolutions(networks.plain(depth, classes=2))]
        assert [widths.count(width) for width in (16, 32, 64)] == stages

    def test_nothing_normalises_and_nothing_is_in_place(self) -> None:
        model = networks.plain(12, classes=10)
        kinds = {type(layer) for layer in model.children()}
        assert kinds == {nn.Conv2d, nn.ReLU, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear}
        assert not any(layer.inplace for layer in model.modules() if isinstance(layer, nn.ReLU))

    def test_initialised_as_pytorch_does(self) -> None:
        torch.manual_seed(0)
        first = nn.Conv2d(3, 16, 3, padding=1)
        torch.manual_seed(0)
        model = networks.plain(3, classes=2)
        assert torch.equal(convolutions(model)[0].weight, first.weight)

    @pytest.mark.parametrize("size", [8, 16, 33])
    def test_takes_any_size(self, size: int) -> None:
        model = networks.build("deepsup:plain-6", classes=7, in_channels=2, size=size)
        assert model(torch.zeros(3, 2, size, size)).shape == (3, 7)

    def test_widths_are_an_option(self) -> None:
        model = networks.build("deepsup:plain-4", classes=2, options={"widths": [4, 8]})
        assert [layer.out_channels for layer in convolutions(model)] == [4, 4, 8, 8]

    def test_is_among_the_names(self) -> None:
        assert {"deepsup:plain-12", "deepsup:plain-13"} < set(networks.names())
