"""U-Nets of a few channels, one for every option away from its default."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deepsup.networks.unets import unet

SMALL: dict[str, Any] = {"classes": 2, "widths": (4, 8, 16)}
BACKBONE = "timm:resnet10t"  # small, with a map at stride 2
# every option away from its default
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "orobix": {"norm": None},
    "group": {"norm": "group"},
    "instance": {"norm": "instance"},
    "no-dropout": {"dropout": 0},
    "prelu": {"activation": "prelu"},
    "prelu-shared": {"activation": "prelu(shared=True)"},
    "leaky": {"activation": "leaky_relu(slope=0.01)"},
    "rrelu": {"activation": "rrelu"},
    "dilated": {"convs": 3, "dilations": (1, 2, 3)},
    "dilated-bottom": {"dilations": ((1, 1), (1, 1), (1, 2))},
    "transpose": {"upsample": "transpose"},
    "bilinear": {"upsample": "bilinear"},
    "backbone": {"encoder": BACKBONE, "widths": (2, 4, 4, 4, 8)},
    "backbone-transpose": {"encoder": BACKBONE, "widths": (2, 4, 4, 4, 8), "upsample": "transpose"},
}


def small(variant: str, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return unet(**{**SMALL, **VARIANTS[variant], **more})


def maps(model: nn.Module, x: Tensor, names: tuple[str, ...]) -> list[Tensor]:
    """What the named layers give out in one forward."""
    seen: dict[str, Tensor] = {}
    handles = [model.get_submodule(n).register_forward_hook(lambda _, __, y, n=n: seen.update({n: y})) for n in names]
    model(x)
    for handle in handles:
        handle.remove()
    return [seen[n] for n in names]
