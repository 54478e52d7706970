"""Backbones: their stages as a run finds them."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from deepsup.errors import ConfigError, MissingPackageError
from deepsup.networks.backbones import Stage, backbone
from tests.support.small_nets import unsettled

torch.set_num_threads(1)

# layer, channels and stride of every stage, from the papers' tables
RESNET50 = [("layer1", 256, 4), ("layer2", 512, 8), ("layer3", 1024, 16), ("layer4", 2048, 32)]
MOBILENET_V2 = [(16, 2), (24, 4), (32, 8), (96, 16), (320, 32)]
STAGES: dict[str, list[tuple[str, int, int]]] = {
    "timm:resnet50s": [("act1", 128, 2), *RESNET50],
    "torchvision:resnet50": [("relu", 64, 2), *RESNET50],
    "timm:mobilenetv2_100": [(f"blocks.{i}", *rest) for i, rest in zip((0, 1, 2, 4, 6), MOBILENET_V2, strict=True)],
    "torchvision:mobilenet_v2": [
        (f"features.{i}", *rest) for i, rest in zip((1, 3, 6, 13, 17), MOBILENET_V2, strict=True)
    ],
    "timm:efficientnet_b0": [
        (f"blocks.{i}", c, s) for i, c, s in ((0, 16, 2), (1, 24, 4), (2, 40, 8), (4, 112, 16), (6, 320, 32))
    ],
    "timm:convnext_tiny": [(f"stages_{i}", 96 * 2**i, 4 * 2**i) for i in range(4)],
    "torchvision:convnext_tiny": [(f"features.{2 * i + 1}", 96 * 2**i, 4 * 2**i) for i in range(4)],
    "torchvision:vgg11": [
        (f"features.{i}", c, 2**n)
        for n, (i, c) in enumerate([(1, 64), (4, 128), (9, 256), (14, 512), (19, 512), (20, 512)])
    ],
    "torchvision:densenet121": [
        ("features.relu0", 64, 2),
        *((f"features.denseblock{i}", 128 * 2**i, 2 * 2**i) for i in (1, 2, 3)),
        ("features.norm5", 1024, 32),
    ],
    "torchvision:regnet_y_400mf": [
        ("stem", 32, 2),
        *((f"trunk_output.block{i}", c, 2 * 2**i) for i, c in enumerate((48, 104, 208, 440), 1)),
    ],
    "deepsup:resnet-18-slim": [(f"layer{i}", 4 * 2**i, 2**i) for i in (1, 2, 3, 4)],
    "torchvision:inception_v3": [
        ("Conv2d_2b_3x3", 64, 2),
        ("Conv2d_4a_3x3", 192, 4),
        ("Mixed_5d", 288, 8),
        ("Mixed_6e", 768, 16),
        ("Mixed_7c", 2048, 32),
    ],
    "timm:hrnet_w18_small": [  # its stages are no layers: the last layer to give out that map
        ("act1", 64, 2),
        ("incre_modules.0", 128, 4),
        *((f"incre_modules.{i}", 128 * 2**i, 4 * 2**i) for i in (1, 2, 3)),
    ],
}
SIDE = 96


@torch.no_grad()
def deepest(model: nn.Module, x: Tensor) -> Tensor:
    found: list[Tensor] = model(x)
    assert found[-1].std() > 1e-6
    return found[-1]


class TestStages:
    @pytest.mark.parametrize("spec", STAGES)
    def test_are_those_that_run(self, spec: str) -> None:
        device = "cpu" if "regnet" in spec else "meta"  # torchvision computes the widths of a RegNet with tensors
        with torch.device(device):
            model, stages = backbone(spec)
        assert stages == tuple(Stage(*stage) for stage in STAGES[spec])
        seen: dict[str, Tensor] = {}
        for name, layer in model.named_modules():
            if name in {stage.layer for stage in stages}:
                layer.register_forward_hook(lambda _, __, out, n=name: seen.update({n: out}))
        with torch.no_grad():
            maps = model.eval()(torch.zeros(1, 3, 128, SIDE, device=device))
        assert len(maps) == len(stages)
        for stage, found in zip(stages, maps, strict=True):
            assert seen[stage.layer] is found
            assert found.shape[1] == stage.channels
            if spec != "torchvision:inception_v3":  # its convolutions without padding lose a border
                assert found.shape[2:] == (128 // stage.stride, SIDE // stage.stride)

    def test_any_number_of_channels_in(self) -> None:
        model, stages = backbone("timm:resnet18", in_channels=5)
        assert model(torch.zeros(2, 5, 64, 64))[-1].shape == (2, stages[-1].channels, 2, 2)

    def test_options_reach_the_network(self) -> None:
        model, stages = backbone("timm:resnet18", options={"stem_type": "deep", "stem_width": 64})
        stem = model.get_submodule("conv1")
        assert [c.out_channels for c in stem.children() if isinstance(c, nn.Conv2d)] == [64, 64, 128]
        assert stages[0] == Stage("act1", 128, 2)

    @pytest.mark.parametrize("size", [{}, {"img_size": 64}])
    def test_a_transformer_at_its_own_size(self, size: Mapping[str, Any]) -> None:
        _, stages = backbone("timm:vit_tiny_patch16_224", options=size)
        assert stages == tuple(Stage(f"model.blocks.{i}", 192, 16) for i in (9, 10, 11))

    @pytest.mark.parametrize("trained", [True, False])
    def test_trained_only_when_asked(self, monkeypatch: pytest.MonkeyPatch, trained: bool) -> None:
        asked: dict[str, Any] = {}

        def watch(make: Any, key: str, name: str, **arguments: Any) -> nn.Module:
            asked[name] = arguments[key]
            return make(name, **(arguments | {key: None if key == "weights" else False}))  # type: ignore[no-any-return]

        monkeypatch.setattr(timm, "create_model", partial(watch, timm.create_model, "pretrained"))
        monkeypatch.setattr(torchvision.models, "get_model", partial(watch, torchvision.models.get_model, "weights"))
        backbone("timm:resnet18", pretrained=trained)
        backbone("torchvision:resnet34", pretrained=trained)
        assert asked == {"resnet18": trained, "resnet34": "DEFAULT" if trained else None}


class TestTrunk:
    """The layers of a torchvision classifier, run by us."""

    @pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
    def test_computes_what_the_classifier_computes(self, name: str) -> None:
        model, stages = backbone(f"torchvision:{name}")
        whole = unsettled(torchvision.models.get_model(name, weights=None))
        missing = whole.load_state_dict(unsettled(model).state_dict(), strict=False)
        assert not missing.unexpected_keys  # names are torchvision's
        seen: dict[str, Tensor] = {}
        for stage in stages:
            layer = whole.get_submodule(stage.layer)
            layer.register_forward_hook(lambda _, __, out, n=stage.layer: seen.update({n: out.clone()}))
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            maps = model(x)
            whole(x)
        assert all(torch.equal(seen[stage.layer], found) for stage, found in zip(stages, maps, strict=True))

    def test_leaves_out_what_only_the_classifier_needs(self) -> None:
        model, _ = backbone("torchvision:mobilenet_v2")
        names = [name for name, _ in model.named_children()]
        assert names == ["features"]
        assert [name for name, _ in model.get_submodule("features").named_children()] == [str(i) for i in range(18)]

    def test_copies_pickles_and_compiles(self) -> None:
        model = unsettled(backbone("torchvision:squeezenet1_1")[0])
        x = torch.randn(1, 3, 64, 64)
        expected = deepest(model, x)
        assert torch.equal(deepest(copy.deepcopy(model), x), expected)
        assert torch.equal(deepest(pickle.loads(pickle.dumps(model)), x), expected)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(deepest(compiled, x), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "more", "message"),
    [
        ("resnet50", {}, "'resnet50' does not say where it comes from. Write timm:NAME, torchvision:NAME or deepsup:NAME"),
        ("timm:", {}, "does not say where it comes from"),
        ("timm:resnet81", {}, "timm has no model called 'resnet81'. Closest: resnet18"),
        ("torchvision:resnet81", {}, "torchvision has no model called 'resnet81'. Closest: resnet18"),
        ("torchvision:fcn_resnet50", {}, "no model called 'fcn_resnet50'. Closest: resnet50"),
        ("timm:resnet18", {"options": {"depht": 3}}, "'timm:resnet18' could not be built with .*depht=3"),
        ("torchvision:resnet18", {"options": {"depht": 3}}, "'torchvision:resnet18' could not be built with .*depht=3"),
        ("torchvision:resnet18", {"in_channels": 1}, r"reads 3 channels, the data has 1. timm's.*timm:resnet50"),
        ("torchvision:vit_b_16", {"options": {"image_size": 256}}, "do not run one after the other.*timm:vit_b_16"),
        ("torchvision:swin_t", {}, r"gives out \[\(1, 64, 64, 96\).*channels first are needed"),
        ("timm:swin_tiny_patch4_window7_224", {}, "channels first are needed"),
        ("timm:resnet18", {"output_stride": 6}, "output_stride=6 must be one of 4, 8, 16, 32"),
        ("timm:resnet18", {"output_stride": True}, "output_stride=True must be"),
        ("timm:resnet18", {"output_stride": 8, "dilation": "deeplab"}, "no dilation 'deeplab'. There are: csail, semseg"),
        (
            "timm:vgg11",
            {"output_stride": 8},
            r"cannot give maps at stride 8: features_15 \(MaxPool2d\), features_20 \(MaxPool2d\) would.*output_stride=32",
        ),
        (
            "torchvision:densenet121",
            {"output_stride": 16},
            r"stride 16: features.transition3.pool \(AvgPool2d\) would shrink",
        ),
        ("timm:resnet26d", {"output_stride": 8}, r"layer3.0.downsample.0 \(AvgPool2d\).*backbone_options={'output_stride': 8}"),
        ("timm:hrnet_w18_small", {"output_stride": 8}, "at stride 32 and has none at output_stride=8.*for output_stride=32"),
        (
            "timm:vit_tiny_patch16_224",
            {"output_stride": 8},
            "has none at output_stride=8: dilated for that, it does not run any more. Choose a convolutional backbone of one "
            r"path \(timm:resnet50, ...\), or ask for output_stride=16.$",
        ),
        ("timm:resnet18", {"output_stride": "8"}, "output_stride='8' must be"),
    ],
)  # fmt: skip
def test_says_why_not(spec: str, more: Mapping[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        backbone(spec, **more)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingPackageError, match=rf'{package}, which is not installed.*pip install "deepsup\[train\]"'
    ):
        backbone(f"{package}:resnet18")
