"""Networks of timm and torchvision: what is built, what is never downloaded, and the published figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from deepsup import networks
from deepsup.errors import ConfigError
from tests.support.paper_nets import on_meta, parameters, shapes

torch.set_num_threads(1)


class TestTorchvisionPublished:
    @pytest.mark.parametrize(
        ("name", "classes", "expected"),
        [
            ("googlenet", 1000, 13_004_888),  # with both auxiliary heads
            ("inception_v3", 1000, 27_161_264),  # with its one
            ("resnet18", 1000, 11_689_512),
            ("resnet34", 1000, 21_797_672),
            ("resnet50", 1000, 25_557_032),
        ],
    )
    def test_parameters(self, name: str, classes: int, expected: int) -> None:
        assert parameters(on_meta(f"torchvision:{name}", classes=classes)) == expected

    def test_where_googlenet_has_its_heads(self) -> None:
        model = on_meta("torchvision:googlenet", classes=1000)
        assert shapes(model, ["inception4a", "inception4d"], 224) == [(512, 14, 14), (528, 14, 14)]
        assert model.get_submodule("aux1.conv.conv").in_channels == 512
        assert model.get_submodule("aux2.conv.conv").in_channels == 528

    def test_resnet34_block_by_block(self) -> None:
        """What the walk-through of ResNet-34 says at 224x224, without its slips.

        It counts one 256-channel block twice, and takes 256 channels at stride 2 into all three 512-channel blocks; only
        the first of a stage shrinks and widens.
        """
        stages = [(64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 3)]  # channels, side, blocks
        model = on_meta("torchvision:resnet34", classes=1000)
        assert shapes(model, ["conv1", "maxpool"], 224) == [(64, 112, 112), (64, 56, 56)]
        before = 64
        for stage, (width, side, count) in enumerate(stages, 1):
            blocks = model.get_submodule(f"layer{stage}")
            assert [name for name, _ in blocks.named_children()] == [str(i) for i in range(count)]
            for i in range(count):
                block = model.get_submodule(f"layer{stage}.{i}")
                first, second = block.get_submodule("conv1"), block.get_submodule("conv2")
                shrinks = 2 if stage > 1 and i == 0 else 1
                described = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in (first, second)]
                assert described == [(before, width, 3, shrinks), (width, width, 3, 1)]
                if shrinks == 2:
                    shortcut = block.get_submodule("downsample.0")
                    assert (shortcut.in_channels, shortcut.out_channels, shortcut.stride) == (before, width, (2, 2))
                else:
                    assert block.downsample is None
                assert shapes(model, [f"layer{stage}.{i}"], 224) == [(width, side, side)]
                before = width
        assert shapes(model, ["avgpool", "fc"], 224) == [(512, 1, 1), (1000,)]


class TestTimm:
    def test_channels_and_classes(self) -> None:
        model = networks.build("timm:resnet18", classes=5, in_channels=1, size=32)
        assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)

    def test_a_network_of_fixed_size_gets_the_data_size(self) -> None:
        model = networks.build("timm:vit_tiny_patch16_224", classes=5, size=32, options={"depth": 1})
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)

    def test_options_overrule_the_size(self) -> None:
        options = {"img_size": 64, "depth": 1}
        model = networks.build("timm:vit_tiny_patch16_224", classes=5, size=32, options=options)
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)

    @pytest.mark.parametrize(("options", "pretrained"), [({}, False), ({"pretrained": True}, True)])
    def test_trained_only_when_asked(
        self, monkeypatch: pytest.MonkeyPatch, options: Mapping[str, Any], pretrained: bool
    ) -> None:
        seen: dict[str, Any] = {}

        def create(name: str, **arguments: Any) -> nn.Module:
            seen.update(arguments, name=name)
            return nn.Identity()

        monkeypatch.setattr(timm, "create_model", create)
        networks.build("timm:resnet18.a1_in1k", classes=5, options=options)
        assert seen == {"name": "resnet18.a1_in1k", "pretrained": pretrained, "num_classes": 5, "in_chans": 3}


class TestTorchvision:
    @pytest.mark.parametrize("name", ["resnet18", "googlenet", "inception_v3", "mobilenet_v3_small"])
    def test_builds_without_a_warning(self, name: str) -> None:
        model = networks.build(f"torchvision:{name}", classes=6).eval()
        with torch.no_grad():
            assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 6)

    def test_a_vision_transformer_gets_the_data_size(self) -> None:
        model = networks.build("torchvision:vit_b_32", classes=6, size=32)
        assert model.get_parameter("encoder.pos_embedding").shape[1] == 2

    def test_no_trained_backbone_in_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("tried to load trained weights")

        monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", refuse)
        networks.build("torchvision:lraspp_mobilenet_v3_large", classes=6)

    @pytest.mark.parametrize(("name", "classifier"), [("resnet18", "fc"), ("squeezenet1_1", "classifier.1")])
    def test_trained_weights_keep_the_trunk_and_lose_the_classifier(
        self, monkeypatch: pytest.MonkeyPatch, name: str, classifier: str
    ) -> None:
        trained = torchvision.models.get_model(name).state_dict()
        monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: trained)
        model = networks.build(f"torchvision:{name}", classes=6, options={"weights": "DEFAULT"})
        state = model.state_dict()
        assert state.keys() == trained.keys()
        differing = {key for key in trained if state[key].shape != trained[key].shape}
        assert differing == {f"{classifier}.weight", f"{classifier}.bias"}
        assert all(torch.equal(state[key], trained[key]) for key in trained.keys() - differing)
        assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 6)

    def test_trained_classifier_stays_when_the_counts_agree(self, monkeypatch: pytest.MonkeyPatch) -> None:
        trained = torchvision.models.resnet18().state_dict()
        monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: trained)
        model = networks.build("torchvision:resnet18", classes=1000, options={"weights": "IMAGENET1K_V1"})
        assert torch.equal(model.get_parameter("fc.weight"), trained["fc.weight"])


def test_torchvision_reads_three_channels_only() -> None:
    with pytest.raises(ConfigError, match=r"reads 3 channels, the data has 1.*timm:resnet18"):
        networks.build("torchvision:resnet18", classes=10, in_channels=1)
