"""What tests of the articles' networks share: counting and watching them, and the parts of which papers write them out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deepsup import networks
from tests.support.small_nets import unsettled

Net = Callable[[dict[str, Tensor], Tensor], Tensor]  # (state, images) -> scores

# one small member of every family, in every form that changes its layers
SMALL: dict[str, dict[str, Any]] = {
    "resnet-8": {},
    "resnet-14": {"shortcut": "pool"},
    "resnet-20": {"shortcut": "project"},
    "resnet-26": {"shortcut": "centred"},
    "resnet-32": {"block": "bottleneck"},
    "wrn-16-2": {},
    "densenet-10-4": {},
    "densenet-bc-16-4": {},
    "mobilenet-v1": {"width": 0.25},
    "mobilenet-v2": {"width": 0.35},
    "nin": {},
    "resnet-10-slim": {},
}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def on_meta(spec: str, *, classes: int = 10, **more: Any) -> nn.Module:
    with torch.device("meta"):
        return networks.build(spec, classes=classes, **more)


def shapes(model: nn.Module, names: list[str], size: int, channels: int = 3) -> list[tuple[int, ...]]:
    """(C, H, W) or (C,) that each named layer gives out for one image."""
    seen: dict[str, tuple[int, ...]] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, n=name: seen.update({n: tuple(out.shape[1:])})
        )
        for name in names
    ]
    device = next(model.parameters()).device
    with torch.no_grad():
        model.eval()(torch.zeros(1, channels, size, size, device=device))
    for handle in handles:
        handle.remove()
    return [seen[name] for name in names]


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    column = (slice(None), None, None)
    return (x - mean[column]) / torch.sqrt(var[column] + 1e-5) * weight[column] + bias[column]


def score(state: dict[str, Tensor], x: Tensor) -> Tensor:
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def assert_computes(spec: str, options: dict[str, Any], paper: Net) -> None:
    """The network gives what `paper`, written out in functions, gives of the same weights."""
    torch.manual_seed(0)
    model = unsettled(networks.build(f"deepsup:{spec}", classes=7, in_channels=2, options=options)).double()
    x = torch.randn(3, 2, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), paper(model.state_dict(), x), rtol=1e-9, atol=1e-12)
