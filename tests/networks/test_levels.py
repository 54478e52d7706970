"""One level of an encoder-decoder: normalisation, initial weights, the way up."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from deepsup.networks.levels import Style, Up
from deepsup.networks.unets import unet
from tests.support.tiny_unets import maps, small

torch.set_num_threads(1)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "transpose"])
@pytest.mark.parametrize("size", [(8, 10), (9, 11), (7, 10)])
def test_enlarging_shifts_nothing(mode: str, size: tuple[int, int]) -> None:
    """An odd side is the doubled map, cut off or with its last value again: elsewhere it equals the plain doubling."""
    up = Up(2, 1, 2, Style(norm=None, dropout=0.0, activation="relu", upsample=mode))
    up.convs = nn.Identity()
    x = torch.randn(1, 2, 4, 5)
    got = up(x, torch.zeros(1, 1, *size))[:, :2]
    if mode == "transpose":
        doubled_map = F.conv_transpose2d(x, up.enlarge.weight, up.enlarge.bias, stride=2)
    else:
        doubled_map = F.interpolate(x, scale_factor=2, mode=mode)
    h, w = min(8, size[0]), min(10, size[1])
    assert torch.equal(got[..., :h, :w], doubled_map[..., :h, :w])
    assert torch.equal(got[..., size[0] - 1, :], got[..., h - 1, :])
    assert torch.equal(got[..., :, size[1] - 1], got[..., :, w - 1])


class TestNormalisation:
    @pytest.mark.parametrize(
        ("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("instance", nn.InstanceNorm2d)]
    )
    def test_follows_each_convolution_and_replaces_its_bias(self, norm: str, kind: type[nn.Module]) -> None:
        model = small("default", norm=norm)
        assert sum(isinstance(m, kind) for m in model.modules()) == 10
        convs = [m for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and name != "score"]
        assert len(convs) == 10
        assert not any(m.bias is not None for m in convs)
        assert model.score.bias is not None
        names = [n for n, _ in model.down1.named_children()]
        assert names == ["conv1", "norm1", "act1", "dropout1", "conv2", "norm2", "act2"]

    def test_groups_are_eight_or_what_divides_the_width(self) -> None:
        model = unet(classes=2, widths=(12, 32), norm="group")
        assert model.down1.norm1.num_groups == 4
        assert model.bottom.norm1.num_groups == 8

    def test_without_any(self) -> None:
        model = small("orobix")
        assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d))


class TestInitial:
    def test_what_one_value_adds_up_decides(self) -> None:
        torch.manual_seed(0)
        model = unet(classes=1, widths=(32, 64), norm=None, upsample="transpose")
        for name, layer in model.named_modules():
            if isinstance(layer, nn.ConvTranspose2d):
                assert layer.weight.std().item() == pytest.approx(64**-0.5, rel=0.05), name
            elif isinstance(layer, nn.Conv2d) and name != "score":
                fan_in = layer.in_channels * 9
                assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.1), name
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                assert layer.bias is not None
                assert not layer.bias.any()

    @pytest.mark.parametrize("upsample", ["nearest", "bilinear", "transpose"])
    def test_signals_keep_their_size_without_normalisation(self, upsample: str) -> None:
        torch.manual_seed(0)
        model = unet(classes=1, widths=(16, 32, 64, 128), norm=None, upsample=upsample).eval()
        x = torch.randn(2, 3, 48, 48)
        for y in maps(model, x, (*model.stages, *model.levels)):
            assert 0.3 < y.square().mean().sqrt() < 6

    def test_a_backbone_keeps_its_own_weights(self) -> None:
        torch.manual_seed(0)
        expected = timm.create_model("resnet10t", features_only=True).state_dict()
        found = small("backbone").encoder.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
