"""Dilation against torchvision's, timm's and the network without it."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from deepsup.errors import ConfigError
from deepsup.networks.backbones import backbone
from deepsup.networks.dilation import dilate
from tests.support.small_nets import unsettled

torch.set_num_threads(1)

SIDE = 96


@torch.no_grad()
def deepest(model: nn.Module, x: Tensor) -> Tensor:
    found: list[Tensor] = model(x)
    assert found[-1].std() > 1e-6
    return found[-1]


def dilated(model: nn.Module, output_stride: int, *, dilation: str = "csail") -> nn.Module:
    dilate(model, output_stride=output_stride, side=128, dilation=dilation)
    return model


class TestDilation:
    @pytest.mark.parametrize(("stride", "replaced"), [(8, [False, True, True]), (16, [False, False, True])])
    def test_is_torchvisions(self, stride: int, replaced: list[bool]) -> None:
        theirs = unsettled(torchvision.models.resnet50(replace_stride_with_dilation=replaced))
        theirs.fc = nn.Identity()  # type: ignore[assignment]
        theirs.avgpool = nn.Identity()  # type: ignore[assignment]
        ours, stages = backbone("torchvision:resnet50", output_stride=stride)
        assert not ours.load_state_dict(theirs.state_dict()).missing_keys
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = theirs(x)
        assert torch.equal(deepest(ours.eval(), x).flatten(1), expected)
        assert [stage.stride for stage in stages] == [2, 4, 8, min(16, stride), min(32, stride)]

    @pytest.mark.parametrize(
        ("name", "stride"),
        [
            ("resnet26", 8),
            ("resnet18", 8),
            ("resnet18", 16),
            ("mobilenetv2_050", 8),
            ("mobilenetv2_050", 16),
            ("efficientnet_b0", 8),  # 5x5 kernels
            ("tf_efficientnet_b0", 8),  # pads as TensorFlow does, by the size of the map
            ("regnetx_002", 8),
            ("mobilenetv3_small_050", 8),
            ("convnext_atto", 16),
        ],
    )
    def test_is_timms(self, name: str, stride: int) -> None:
        theirs = unsettled(timm.create_model(name, features_only=True, output_stride=stride))
        ours, stages = backbone(f"timm:{name}", output_stride=stride)
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(1, 3, 64, SIDE)
        expected = deepest(theirs, x)
        assert torch.equal(deepest(ours.eval(), x), expected)
        assert expected.shape[2:] == (64 // stride, SIDE // stride)
        assert stages[-1].stride == stride

    @pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "convnext_atto", "regnetx_002"])
    @pytest.mark.parametrize("stride", [4, 8])
    def test_keeps_the_values_that_were_there(self, name: str, stride: int) -> None:
        """Every second, fourth or eighth value is what the network gives out without dilation."""
        plain = unsettled(timm.create_model(name, features_only=True)).double()
        x = torch.randn(1, 3, 64, 64).double()
        expected = deepest(plain, x)
        step = 32 // stride
        found = deepest(dilated(copy.deepcopy(plain), stride), x)
        assert found.shape[2:] == (64 // stride, 64 // stride)
        torch.testing.assert_close(found[:, :, ::step, ::step], expected)

    @pytest.mark.parametrize("name", ["resnet18", "resnet26"])
    def test_semseg_dilates_the_kernels_that_lose_their_stride_as_much_as_the_rest(self, name: str) -> None:
        model = dilated(timm.create_model(name, features_only=True), 8, dilation="semseg")
        for stage, rate in (("layer1", 1), ("layer2", 1), ("layer3", 2), ("layer4", 4)):
            convs = [c for c in model.get_submodule(stage).modules() if isinstance(c, nn.Conv2d)]
            square = [c for c in convs if c.kernel_size == (3, 3)]
            assert {c.dilation[0] for c in square} == {rate}
            assert all(c.padding == c.dilation for c in square)
            assert {c.stride for c in convs} == ({(1, 1), (2, 2)} if stage == "layer2" else {(1, 1)})
            assert {c.dilation for c in convs if c.kernel_size == (1, 1)} <= {(1, 1)}

    def test_changes_no_parameter_and_leaves_no_trace(self) -> None:
        model = timm.create_model("convnext_atto", features_only=True)
        before = copy.deepcopy(model.state_dict())
        parameters = dict(model.named_parameters())
        state = torch.random.get_rng_state()
        dilated(model, 8)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert list(model.state_dict()) == list(before)
        assert all(parameters[name] is p for name, p in model.named_parameters())
        assert not any(layer._forward_hooks for layer in model.modules())
        assert torch.equal(torch.random.get_rng_state(), state)
        assert model.training

    def test_leaves_alone_what_is_fine_enough(self) -> None:
        model = timm.create_model("resnet18", features_only=True)
        before = [(c.stride, c.dilation, c.padding) for c in model.modules() if isinstance(c, nn.Conv2d)]
        dilated(model, 32)
        assert [(c.stride, c.dilation, c.padding) for c in model.modules() if isinstance(c, nn.Conv2d)] == before

    def test_what_timm_dilates_itself_is_dilated_once(self) -> None:
        model, stages = backbone("timm:resnet26d", output_stride=8, options={"output_stride": 8})
        theirs = unsettled(timm.create_model("resnet26d", features_only=True, output_stride=8))
        model.load_state_dict(theirs.state_dict())
        x = torch.randn(1, 3, 64, 64)
        assert torch.equal(deepest(model.eval(), x), deepest(theirs, x))
        assert [stage.stride for stage in stages] == [2, 4, 8, 8, 8]


class Reflecting(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3, stride=8, padding=1, padding_mode="reflect"))


def test_only_zeros_can_be_padded_further() -> None:
    with pytest.raises(ConfigError, match=r"layer '0' pads with 'reflect'"):
        dilate(Reflecting(), output_stride=4, side=64)
