"""Where stages end, and DHM's branches: against its tables, and by the rule elsewhere."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from deepsup.errors import LayerError
from deepsup.heads.continuation import hierarchical, stages
from deepsup.layers.dry_run import trace
from tests.support.continuations import dry


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("torchvision:resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("torchvision:resnet50", ["layer1", "layer2", "layer3", "layer4"]),
        ("torchvision:vgg11_bn", ["features.2", "features.6", "features.13", "features.20", "features.27"]),
        (
            "torchvision:densenet121",
            ["features.denseblock1", "features.denseblock2", "features.denseblock3", "features"],
        ),
        ("torchvision:mobilenet_v2", ["features.3", "features.6", "features.13", "features"]),
        ("torchvision:mobilenet_v3_small", ["features.1", "features.3", "features.8", "features"]),
        ("torchvision:efficientnet_b0", ["features.1", "features.2", "features.3", "features.5", "features"]),
        ("torchvision:convnext_tiny", ["features.1", "features.3", "features.5", "features"]),
        ("torchvision:googlenet", ["inception3b", "inception4e", "inception5b"]),
        ("timm:resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("timm:regnety_002", ["s1", "s2", "s3", "s4"]),
        ("timm:convnext_atto", ["stages.0", "stages.1", "stages.2", "stages"]),
    ],
)
def test_stages_end_where_the_map_shrinks_next(spec: str, expected: list[str]) -> None:
    assert stages(dry(spec, 64)[1]) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("deepsup:resnet-20", ["layer1", "layer2", "layer3"]),
        ("deepsup:wrn-16-8", ["layer1", "layer2", "relu1"]),
        ("deepsup:densenet-40-12", ["layer1", "layer2", "relu1"]),
        ("deepsup:mobilenet-v1", ["layer1", "layer2", "layer3", "layer4", "layer5"]),
        ("deepsup:plain-12", ["relu4", "relu8", "relu12"]),
    ],
)
def test_stages_of_small_images(spec: str, expected: list[str]) -> None:
    assert stages(dry(spec, 32)[1]) == expected


def test_stages_are_the_same_at_any_size() -> None:
    found = {tuple(stages(dry("torchvision:resnet18", size)[1])) for size in (32, 64, 96)}
    assert found == {("layer1", "layer2", "layer3", "layer4")}


def test_a_transformer_of_one_resolution_has_no_stages() -> None:
    model, seen = dry("timm:vit_tiny_patch16_224", 224)
    assert stages(seen) == []
    with pytest.raises(LayerError, match="VisionTransformer has 0 stages of different resolution, not three"):
        hierarchical(model, seen)


# The tables of the released code: blocks of the early branch's two stages, and of the late branch's one.
CIFAR = {
    "deepsup:resnet-32": ([5, 3], [5]),
    "deepsup:resnet-110": ([9, 9], [18]),
    "deepsup:wrn-16-8": ([2, 1], [2]),
    "deepsup:wrn-28-10": ([4, 2], [4]),
    "deepsup:densenet-40-12": ([12, 6], [12]),
    "deepsup:densenet-100-12": ([16, 16], [32]),
    "deepsup:densenet-100-24": ([16, 16], [32]),
    "deepsup:densenet-bc-100-12": ([16, 16], [32]),
    "deepsup:densenet-bc-250-24": ([22, 22], [41]),
    "deepsup:densenet-bc-190-40": ([16, 16], [31]),
    # by the rule that these follow: n blocks and half of them, rounded up; n
    "deepsup:resnet-20": ([3, 2], [3]),
    "deepsup:resnet-56": ([9, 5], [9]),
    "deepsup:wrn-40-2": ([6, 3], [6]),
}


@pytest.mark.parametrize("spec", CIFAR)
def test_branches_of_cifar_networks_are_those_of_the_released_code(spec: str) -> None:
    early, late = CIFAR[spec]
    dense = "densenet" in spec
    after = ("transition1", "transition2") if dense else ("layer1", "layer2")
    assert hierarchical(*dry(spec, 16)) == {
        "early": (after[0], f"continuation(blocks={early})"),
        "late": (after[1], f"continuation(width={3 if dense else 2}, blocks={late})"),
    }


IMAGENET = {
    "resnet18": ([1, 2], [2]),
    "resnet34": ([3, 2], [3]),
    "resnet50": ([3, 2], [3]),
    "resnet101": ([12, 2], [3]),
    "resnet152": ([18, 2], [3]),
}


@pytest.mark.parametrize("source", ["torchvision", "timm"])
@pytest.mark.parametrize("name", IMAGENET)
def test_branches_of_imagenet_resnets_are_those_of_the_released_code(name: str, source: str) -> None:
    early, late = IMAGENET[name]
    assert hierarchical(*dry(f"{source}:{name}", 64)) == {
        "early": ("layer2", f"continuation(blocks={early})"),
        "late": ("layer3", f"continuation(width=2, blocks={late})"),
    }


def test_resnet_1202_is_told_by_its_blocks() -> None:
    class Block(nn.Module):
        def __init__(self, width: int, stride: int = 1) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 1, 1, stride=stride), nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    class ResNet(nn.Module):  # the usual name in code for CIFAR too
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 1)
            for number in (1, 2, 3):
                blocks = [Block(1, stride=2 if number > 1 and i == 0 else 1) for i in range(200)]
                self.add_module(f"layer{number}", nn.Sequential(*blocks))
            self.fc = nn.Linear(1, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.layer3(self.layer2(self.layer1(self.conv(x)))).mean((2, 3)))

    with torch.device("meta"):
        model = ResNet()
        found = hierarchical(model, trace(model, torch.zeros(2, 3, 8, 8)))
    assert found == {
        "early": ("layer1", "continuation(blocks=[100, 100])"),
        "late": ("layer2", "continuation(width=2, blocks=[200])"),
    }


@pytest.mark.parametrize(
    ("spec", "early", "late"),
    [
        ("deepsup:mobilenet-v1", ("layer3", "continuation(blocks=[6, 1])"), "layer4"),
        ("deepsup:mobilenet-v2", ("layer2", "continuation(blocks=[7, 2])"), "layer3"),
        ("torchvision:mobilenet_v2", ("features.6", "continuation(blocks=[7, 2])"), "features.13"),
        ("torchvision:efficientnet_b0", ("features.3", "continuation(blocks=[3, 3, 2, 1])"), "features.5"),
        ("torchvision:convnext_tiny", ("features.3", "continuation(blocks=[9, 2])"), "features.5"),
        ("torchvision:vgg11_bn", ("features.13", "continuation"), "features.20"),
        ("torchvision:googlenet", ("inception3b", "continuation"), "inception4e"),
        ("timm:regnety_002", ("s2", "continuation(blocks=[4, 4])"), "s3"),
    ],
)
def test_other_networks_go_by_the_rule(spec: str, early: tuple[str, str], late: str) -> None:
    size = 32 if spec.startswith("deepsup") else 64
    assert hierarchical(*dry(spec, size)) == {"early": early, "late": (late, "continuation(width=2)")}


def test_a_wrapped_resnet_is_known_as_one() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Identity(), torchvision.models.resnet50(num_classes=10))
        found = hierarchical(model, trace(model, torch.zeros(2, 3, 64, 64)))
    assert found == {
        "early": ("1.layer2", "continuation(blocks=[3, 2])"),
        "late": ("1.layer3", "continuation(width=2, blocks=[3])"),
    }
