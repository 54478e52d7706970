"""A decoder on any backbone: sizes, strides, channels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import deepsup as ds
from deepsup import networks
from tests.support.dense_nets import TINY, built, on_meta
from tests.support.small_nets import unsettled

torch.set_num_threads(1)


@pytest.mark.parametrize(("kind", "corners"), [("pspnet", True), ("c1", False), ("ppm", False)])
@torch.no_grad()
def test_full_size_is_the_scores_enlarged(kind: str, corners: bool) -> None:
    model = unsettled(built(kind, **TINY, full_size=True))
    x = torch.randn(1, 3, 49, 65)
    scores = model.get_submodule("decoder")(model.get_submodule("backbone")(x)[-1])
    assert scores.shape == (1, 5, 7, 9)
    expected = F.interpolate(scores, (49, 65), mode="bilinear", align_corners=corners)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    ("kind", "spec", "stages"),
    [
        ("pspnet", "timm:resnet18", [f"layer{i}" for i in (1, 2, 3, 4)]),
        ("pspnet", "timm:mobilenetv2_050", ["blocks.1", "blocks.2", "blocks.4", "blocks.6"]),
        ("c1", "timm:mobilenetv2_050", ["blocks.1.0", "blocks.2.0", "blocks.3.0", "blocks.5.0", "blocks.6"]),
        ("ppm", "torchvision:mobilenet_v2", [f"features.{i}" for i in (2, 4, 7, 14, 17)]),
        ("c1", "timm:convnext_atto", [f"stages_{i}" for i in range(4)]),
        ("ppm", "timm:efficientnet_b0", ["blocks.1", "blocks.2", "blocks.4", "blocks.6"]),
        ("pspnet", "torchvision:shufflenet_v2_x0_5", ["maxpool", "stage2", "stage3", "conv5"]),
    ],
)
def test_any_backbone(kind: str, spec: str, stages: list[str]) -> None:
    model = on_meta(kind, backbone=spec, classes=7)
    assert model.stages == tuple(f"backbone.{stage}" for stage in stages)
    assert model.eval()(torch.empty(1, 3, 64, 96, device="meta")).shape == (1, 7, 8, 12)
    assert set(model.stages) < {name for name, _ in model.named_modules()}


@pytest.mark.parametrize("kind", ["pspnet", "c1", "ppm"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_other_strides_bins_and_channels(stride: int, kind: str) -> None:
    more: dict[str, Any] = {} if kind == "c1" else {"bins": (1, 2), "dropout": 0.0}
    model = networks.build(
        f"deepsup:{kind}",
        classes=3,
        in_channels=4,
        options={**TINY, "output_stride": stride, "width": 24, **more},
    )
    assert model(torch.zeros(2, 4, 64, 64)).shape == (2, 3, 64 // stride, 64 // stride)


def test_a_certificate_holds_wherever_the_class_of_its_model_was_written(tmp_path: Path) -> None:
    model = built("c1", **TINY)
    plan = ds.plan(model, torch.randn(2, 3, 64, 64), method="c1-deepsup")
    path = tmp_path / "certificate.json"
    stripped = ds.strip(ds.attach(model, plan), certificate=path)
    proof = json.loads(path.read_text())
    assert proof["model"] == "deepsup.networks.segmenters.Segmenter"
    path.write_text(json.dumps({**proof, "model": "deepsup.networks.backbone_and_decoder.Segmenter"}))
    assert ds.verify(path, stripped)["outputs"] == "identical"
