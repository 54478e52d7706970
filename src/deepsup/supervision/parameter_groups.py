"""Settings of the optimiser for trunk and heads apart."""

from __future__ import annotations

from typing import Any

from torch import nn

from deepsup.supervision.attaching import Supervised, is_supervised, unwrap


def parameter_groups(
    net: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    head_lr_factor: float = 1.0,
    head_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Two optimiser groups, `"model"` and `"heads"`; `head_lr_factor` multiplies `lr` for the heads (torchvision uses 10).

    For a model without branches there is only the first. Frozen parameters are left out.
    """
    decay = weight_decay if head_weight_decay is None else head_weight_decay
    parts = [("model", net, lr, weight_decay)]
    if any(isinstance(m, Supervised) for m in net.modules()) and is_supervised(net):
        target = unwrap(net)
        parts = [("model", target.model, lr, weight_decay), ("heads", target.heads, lr * head_lr_factor, decay)]
    groups: list[dict[str, Any]] = []
    taken: set[int] = set()  # a head may share a layer with the model
    for name, module, rate, wd in parts:
        params = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
        taken |= {id(p) for p in params}
        groups.append({"name": name, "params": params, "lr": rate, "weight_decay": wd})
    return [g for g in groups if g["params"]]
