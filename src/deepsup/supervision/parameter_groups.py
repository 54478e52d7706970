"""Settings of the optimiser for trunk and heads apart."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from deepsup import methods
from deepsup.supervision.attaching import Supervised, is_supervised, unwrap

REMEDY = "make it with SGD(deepsup.parameter_groups(net, lr=...)), or leave optimizer.head_lr_factor null"


def parameter_groups(
    net: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    head_lr_factor: float | None = None,
    head_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Optimiser groups `"model"` and `"heads"`; `head_lr_factor` multiplies `lr` for the heads (torchvision uses 10).

    What is not said of the heads is as their method needs it (DSN's learn at a thousandth of the rate), for most as it is of
    the model; and the layer that makes the main scores has a group of its own, `"classifier"`, where the method wants another
    rate for it. For a model without branches there is only the first. Frozen parameters are left out.
    """
    parts = [("model", net, lr, weight_decay)]
    if any(isinstance(m, Supervised) for m in net.modules()) and is_supervised(net):
        target = unwrap(net)
        method = methods.get(target.plan.method)
        factor = method.head_lr_factor if head_lr_factor is None else head_lr_factor
        said = (head_weight_decay, method.head_weight_decay, weight_decay)
        decay = next(each for each in said if each is not None)
        parts = [("model", target.model, lr, weight_decay), ("heads", target.heads, lr * factor, decay)]
        last = classifier(target.model, target.plan.classes) if method.classifier_lr_factor != 1 else None
        if last is not None and head_lr_factor is None:  # rates that are said are taken as they are said
            parts.insert(0, ("classifier", last, lr * method.classifier_lr_factor, weight_decay))
    groups: list[dict[str, Any]] = []
    taken: set[int] = set()  # a head may share a layer with the model
    for name, module, rate, wd in parts:
        params = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
        taken |= {id(p) for p in params}
        groups.append({"name": name, "params": params, "lr": rate, "weight_decay": wd})
    return sorted((g for g in groups if g["params"]), key=lambda g: g["name"] != "model")


def too_fast(net: nn.Module, optimizer: Optimizer) -> str:
    """What an optimiser lacks of the rates that the method of `net` needs, as a sentence without an end; "" if nothing."""
    if not (any(isinstance(m, Supervised) for m in net.modules()) and is_supervised(net)):
        return ""
    target = unwrap(net)
    method = methods.get(target.plan.method)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    of_heads, of_model = (
        max((rates[id(p)] for p in part.parameters() if id(p) in rates), default=0.0)
        for part in (target.heads, target.model)
    )
    if method.head_lr_factor >= 1 or not of_model or of_heads <= of_model * method.head_lr_factor * 1.01:
        return ""
    return (
        f"method '{method.name}' needs its heads at {method.head_lr_factor:g} of the model's rate, and this optimiser has them "
        f"at {of_heads / of_model:g}"
    )


def classifier(model: nn.Module, classes: int) -> nn.Module | None:
    """The layer that makes a model's scores: the last linear or convolutional one that gives a channel a class."""
    found = None
    for layer in model.modules():
        given = layer.out_features if isinstance(layer, nn.Linear) else getattr(layer, "out_channels", None)
        found = layer if given == classes and isinstance(layer, (nn.Linear, _ConvNd)) else found
    return found
