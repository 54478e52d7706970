"""Residual networks against their paper, shortcut by shortcut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import networks
from deepsup.errors import ConfigError
from deepsup.networks.resnets import SHORTCUTS, BasicBlock
from tests.support.paper_nets import Net, assert_computes, norm, parameters, score

torch.set_num_threads(1)


def resnet_on_paper(n: int, shortcut: str) -> Net:
    def run(s: dict[str, Tensor], x: Tensor) -> Tensor:
        x = F.relu(norm(s, "bn1", F.conv2d(x, s["conv1.weight"], padding=1)))
        for stage in (1, 2, 3):
            for i in range(n):
                b = f"layer{stage}.{i}"
                stride = 2 if stage > 1 and i == 0 else 1
                y = F.relu(norm(s, f"{b}.bn1", F.conv2d(x, s[f"{b}.conv1.weight"], stride=stride, padding=1)))
                y = norm(s, f"{b}.bn2", F.conv2d(y, s[f"{b}.conv2.weight"], padding=1))
                if stride == 2 and shortcut == "project":
                    x = norm(s, f"{b}.shortcut.bn", F.conv2d(x, s[f"{b}.shortcut.conv.weight"], stride=2))
                elif stride == 2:
                    kept = x[:, :, ::2, ::2]
                    if shortcut == "pool":
                        kept = (kept + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
                    x = torch.cat((kept, torch.zeros_like(kept)), 1)  # each stage is twice as wide as the one before
                x = F.relu(x + y)
        return score(s, x)

    return run


@pytest.mark.parametrize(
    ("spec", "options", "paper"),
    [
        ("resnet-8", {}, resnet_on_paper(1, "subsample")),
        ("resnet-14", {}, resnet_on_paper(2, "subsample")),
        ("resnet-14", {"shortcut": "pool"}, resnet_on_paper(2, "pool")),
        ("resnet-14", {"shortcut": "project"}, resnet_on_paper(2, "project")),
    ],
)
def test_a_resnet_computes_what_the_paper_says(spec: str, options: dict[str, Any], paper: Net) -> None:
    assert_computes(spec, options, paper)


class TestShortcuts:
    @pytest.mark.parametrize("shortcut", SHORTCUTS)
    @pytest.mark.parametrize("size", [28, 9, 1])
    def test_any_size(self, shortcut: str, size: int) -> None:
        model = networks.resnet(8, classes=4, in_channels=1, shortcut=shortcut)
        assert model.eval()(torch.randn(2, 1, size, size)).shape == (2, 4)

    @pytest.mark.parametrize("shortcut", ["subsample", "pool"])
    def test_a_rebuilt_block_still_fits(self, shortcut: str) -> None:
        block = BasicBlock(16, 32, stride=2, shortcut=shortcut).eval()
        block.conv1, block.bn1 = nn.Conv2d(16, 80, 3, stride=2, padding=1), nn.BatchNorm2d(80).eval()
        block.conv2, block.bn2 = nn.Conv2d(80, 80, 3, padding=1), nn.BatchNorm2d(80).eval()
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
        x = torch.rand(2, 16, 6, 6)
        out = block(x)
        expected = x[:, :, ::2, ::2] if shortcut == "subsample" else F.avg_pool2d(x, 2)
        assert torch.equal(out[:, :16], expected)
        assert out.shape == (2, 80, 3, 3)
        assert not out[:, 16:].any()

    def test_zeros_cost_nothing_and_projections_do(self) -> None:
        plain = parameters(networks.resnet(8, classes=10))
        assert parameters(networks.resnet(8, classes=10, shortcut="pool")) == plain
        extra = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
        assert parameters(networks.resnet(8, classes=10, shortcut="project")) == plain + extra


def test_the_resnet_of_small_images_keeps_their_size_and_has_the_published_parameters() -> None:
    model = networks.build("deepsup:resnet-18-3x3", classes=100)
    assert sum(p.numel() for p in model.parameters()) == 11_220_132
    seen = ds.trace(model, torch.randn(2, 3, 32, 32))
    shapes = [str(seen.layers[f"layer{i}"].feature) for i in (1, 2, 3, 4)]
    assert shapes == ["64x32x32", "128x16x16", "256x8x8", "512x4x4"]
    with pytest.raises(ConfigError, match="'resnet-20-3x3' cannot be built: there are the depths 18, 34, 50, 101, 152"):
        networks.build("deepsup:resnet-20-3x3", classes=100)
