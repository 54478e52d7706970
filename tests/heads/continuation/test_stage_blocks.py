"""Which blocks of a model make up its stages."""

from __future__ import annotations

import pytest

from deepsup.heads.continuation.stage_blocks import following, stages_of
from tests.support.continuations import dry


class TestBlocks:
    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            ("torchvision:resnet50", [("layer1", 3), ("layer2", 4), ("layer3", 6), ("layer4", 3)]),
            ("torchvision:densenet121", [(f"features.denseblock{i + 1}", n) for i, n in enumerate((6, 12, 24, 16))]),
            ("torchvision:mobilenet_v2", [("features", n) for n in (1, 2, 3, 7, 4)]),  # divided by their strides
            ("torchvision:googlenet", []),  # its parallel convolutions are none
            ("torchvision:vgg11_bn", []),
            ("timm:convnext_atto", [(f"stages.{i}.blocks", n) for i, n in enumerate((2, 2, 6, 2))]),
            ("timm:regnety_002", [("s3", 4), ("s4", 7)]),
            ("deepsup:densenet-40-12", [("layer1", 12), ("layer2", 12), ("layer3", 12)]),  # one convolution a block
        ],
    )
    def test_runs_of_one_class_are_stages(self, spec: str, expected: list[tuple[str, int]]) -> None:
        model, _ = dry(spec, 32 if spec.startswith("deepsup") else 64)
        assert [(stage.container, len(stage.blocks)) for stage in stages_of(model)] == expected

    def test_what_ran_before_or_around_the_layer_does_not_follow(self) -> None:
        model, seen = dry("torchvision:resnet18", 64)
        ran = sorted((n for n, layer in seen.layers.items() if layer.calls), key=lambda n: seen.layers[n].order)
        assert [stage.paths for stage in following(model, "layer3.0.conv1", ran)] == [
            ["layer3.1"],
            ["layer4.0", "layer4.1"],
        ]
        assert [stage.container for stage in following(model, "layer3", ran)] == ["layer4"]
        assert [stage.container for stage in following(model, "", ran)] == ["layer1", "layer2", "layer3", "layer4"]
