"""Settings of the optimiser for trunk and heads apart."""

from __future__ import annotations

from collections.abc import Mapping
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
    the model; and layers of the model that the method wants at another rate have a group of their own: the one that makes the
    main scores, `"classifier"`, and those that a released network gives rates to, `"model * 100"`. Biases are then in
    `".../bias"` where the release learns them at another rate. For a model without branches there is only the first.
    Frozen parameters are left out.
    """
    parts: list[tuple[str, nn.Module, float, float]] = [("model", net, lr, weight_decay)]
    biases = None
    if any(isinstance(m, Supervised) for m in net.modules()) and is_supervised(net):
        target = unwrap(net)
        method = methods.get(target.plan.method)
        factor = method.head_lr_factor if head_lr_factor is None else head_lr_factor
        said = (head_weight_decay, method.head_weight_decay, weight_decay)
        decay = next(each for each in said if each is not None)
        parts = [("model", target.model, lr, weight_decay), ("heads", target.heads, lr * factor, decay)]
        if head_lr_factor is None:  # rates that are said are taken as they are said
            parts = [(name, layer, lr * rate, weight_decay) for name, layer, rate in _own_rates(target, method)] + parts
            biases = method.biases
    groups: list[dict[str, Any]] = []
    taken: set[int] = set()  # a head may share a layer with the model
    for name, module, rate, wd in parts:
        found = {n: p for n, p in module.named_parameters() if p.requires_grad and id(p) not in taken}
        taken |= {id(p) for p in found.values()}
        for group, params, own in _by_kind(name, found, biases):
            groups.append(
                {"name": group, "params": params, "lr": rate * own.rate, "weight_decay": wd * own.weight_decay}
            )
    return sorted((g for g in _merged(groups) if g["params"]), key=lambda g: g["name"] != "model")


def _by_kind(
    name: str, found: Mapping[str, nn.Parameter], biases: methods.Biases | None
) -> list[tuple[str, list[nn.Parameter], methods.Biases]]:
    """Parameters as one group, or biases apart where they have a rate of their own."""
    as_weights = methods.Biases(1.0, 1.0)
    if biases is None:
        return [(name, list(found.values()), as_weights)]
    apart = {n for n in found if n.rpartition(".")[2] == "bias"}
    weights = [p for n, p in found.items() if n not in apart]
    return [(name, weights, as_weights), (f"{name}/bias", [found[n] for n in found if n in apart], biases)]


def _own_rates(net: Supervised, method: methods.Method) -> list[tuple[str, nn.Module, float]]:
    """The layers of a model that a method wants at rates of their own, with the name of their group."""
    found = []
    if method.classifier_lr_factor != 1 and (last := classifier(net.model, net.plan.classes)) is not None:
        found.append(("classifier", last, method.classifier_lr_factor))
    rates: Mapping[str, float] = getattr(net.model, "released_rates", {}) if method.released_rates else {}
    return found + [(f"model * {rate:g}", net.model.get_submodule(name), rate) for name, rate in rates.items()]


def _merged(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of one name as one."""
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        if group["name"] in found:
            found[group["name"]]["params"] += group["params"]
        else:
            found[group["name"]] = group
    return list(found.values())


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
