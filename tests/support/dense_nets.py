"""Networks that give scores for every pixel, on small backbones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deepsup import networks

ADE20K = 150
DEEP18: dict[str, Any] = {
    "backbone": "timm:resnet18",
    "backbone_options": {"stem_type": "deep", "stem_width": 64},
}  # CSAIL's
TINY: dict[str, Any] = {
    "backbone": "timm:resnet18",
    "backbone_options": {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, 64), "zero_init_last": False},
}


def built(spec: str, *, classes: int = 5, **options: Any) -> nn.Module:
    return networks.build(f"deepsup:{spec}", classes=classes, options=options)


def on_meta(spec: str, *, classes: int = ADE20K, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return built(spec, classes=classes, **options)
