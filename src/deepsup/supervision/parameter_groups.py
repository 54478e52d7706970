"""Settings of the optimiser for trunk and heads apart."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from deepsup import methods, specs
from deepsup.errors import BranchNameError, ConfigError
from deepsup.layers.wrappers import bare
from deepsup.specs import closest, is_number
from deepsup.supervision.attaching import Supervised, is_supervised, unwrap
from deepsup.supervision.transparency import depths

REMEDY = "make it with SGD(deepsup.parameter_groups(net, lr=...)), or leave optimizer.head_lr_factor null"


def parameter_groups(
    net: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    head_lr_factor: float | None = None,
    head_weight_decay: float | None = None,
    no_decay: bool = False,
    layer_decay: float | None = None,
    branch_lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Optimiser groups `"model"` and `"heads"`; `head_lr_factor` multiplies `lr` for the heads (torchvision uses 10).

    What is not said of the heads is as their method needs it (DSN's learn at a thousandth of the rate), for most as it is of
    the model; and layers of the model that the method wants at another rate have a group of their own: the one that makes the
    main scores, `"classifier"`, and those that a released network gives rates to, `"model * 100"`. Biases are then in
    `".../bias"` where the release learns them at another rate. For a model without branches there is only the first.
    Frozen parameters are left out.

    `no_decay` leaves out of weight decay what timm leaves out: biases, all of one dimension (scales of normalisations, PReLU's
    slopes), and what the model's own `no_weight_decay()` names; these are in `".../no decay"`. `layer_decay` multiplies `lr` by
    itself once for each layer between a parameter and the classifier, in groups `"model/layer 3"`, as timm does by the model's
    `group_matcher` (BEiT, Bao et al. 2022); heads keep theirs.
    `branch_lr_factors` multiplies `lr` for the heads of single branches, by name, in groups `"heads/early"`. Raises
    `BranchNameError` for a branch that is not there, `ConfigError` for a model that does not tell its layers,
    and for a `layer_decay` outside (0, 1].
    """
    rates: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "head_lr_factor": head_lr_factor}
    specs.hold("parameter_groups", specs.NOT_NEGATIVE, **rates, head_weight_decay=head_weight_decay)
    specs.hold("parameter_groups", specs.FINITE, layer_decay=layer_decay)
    parts: list[tuple[str, nn.Module, float, float]] = [("model", net, lr, weight_decay)]
    biases = None
    model, heads = bare(net), None
    if any(isinstance(m, Supervised) for m in net.modules()) and is_supervised(net):
        target = unwrap(net)
        model, heads = target.model, target.heads
        method = methods.get(target.plan.method)
        factor = method.head_lr_factor if head_lr_factor is None else head_lr_factor
        said = (head_weight_decay, method.head_weight_decay, weight_decay)
        decay = next(each for each in said if each is not None)
        parts = [("model", model, lr, weight_decay), ("heads", heads, lr * factor, decay)]
        parts = [*_of_branches(target, lr, decay, branch_lr_factors or {}), *parts]  # before the heads together
        if head_lr_factor is None:  # rates that are said are taken as they are said
            parts = [(name, layer, lr * rate, weight_decay) for name, layer, rate in _own_rates(target, method)] + parts
            biases = method.biases
    elif branch_lr_factors:
        raise ConfigError(
            "branch_lr_factors are for branches, and this net has none. Attach them first, or leave it out."
        )
    kinds = _Kinds(biases, _exempt(model, heads) if no_decay else frozenset(), _scales(model, layer_decay))
    groups: dict[str, dict[str, Any]] = {}
    taken: set[int] = set()  # a head may share a layer with the model
    for name, module, rate, wd in parts:
        for key, p in module.named_parameters():
            if p.requires_grad and id(p) not in taken:
                taken.add(id(p))
                group, share, decays = kinds.of(name, key, p)
                made = {"name": group, "params": [], "lr": rate * share, "weight_decay": wd * decays}
                groups.setdefault(group, made)["params"].append(p)
    return sorted(groups.values(), key=lambda g: g["name"] != "model")


def _of_branches(
    net: Supervised, lr: float, decay: float, factors: Mapping[str, float]
) -> list[tuple[str, nn.Module, float, float]]:
    """The heads of branches that have a rate of their own."""
    known = [branch.name for branch in net.plan.branches]
    for name, factor in factors.items():
        if name not in known:
            raise BranchNameError(
                f"branch_lr_factors names {name!r}, which is no branch.{closest(name, known)} Branches: {', '.join(known)}."
            )
        if not is_number(factor) or factor < 0:
            raise ConfigError(f"branch_lr_factors: {name!r} must be a number of at least 0; found {factor!r}.")
    return [(f"heads/{name}", net.heads[name], lr * factor, decay) for name, factor in factors.items()]


class _Kinds(NamedTuple):
    """What sets parameters of one part apart from one another."""

    biases: methods.Biases | None
    exempt: frozenset[int]  # from weight decay, by id
    scales: Mapping[int, tuple[int, float]]  # by id the layer, and what multiplies the rate

    def of(self, part: str, key: str, p: nn.Parameter) -> tuple[str, float, float]:
        """The name of the group, what multiplies its rate, and what its weight decay."""
        rate, decay = 1.0, 1.0
        if self.biases is not None and key.rpartition(".")[2] == "bias":
            part, rate, decay = f"{part}/bias", self.biases.rate, self.biases.weight_decay
        if id(p) in self.scales:
            layer, scale = self.scales[id(p)]
            part, rate = f"{part}/layer {layer}", rate * scale
        return (f"{part}/no decay", rate, 0.0) if id(p) in self.exempt else (part, rate, decay)


def _exempt(model: nn.Module, heads: nn.Module | None) -> frozenset[int]:
    """The parameters that timm leaves out of weight decay, by id."""
    named = getattr(model, "no_weight_decay", set)
    patterns = list(named() if callable(named) else named)
    both = [*model.named_parameters(), *(heads.named_parameters() if heads is not None else ())]
    small = {id(p) for name, p in both if p.ndim <= 1 or name.endswith(".bias")}
    return frozenset(small | {id(p) for n, p in model.named_parameters() if any(fnmatch(n, each) for each in patterns)})


def _scales(model: nn.Module, layer_decay: float | None) -> dict[int, tuple[int, float]]:
    """By the id of each of the model's parameters its layer from the input, and `layer_decay` to the power of those above it."""
    if layer_decay is None:
        return {}
    if not 0 < layer_decay <= 1:
        raise ConfigError(
            f"layer_decay is what each layer further down multiplies the rate by, in (0, 1]; found {layer_decay!r}."
        )
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise ConfigError(
            f"layer_decay needs a model that tells its layers by group_matcher(), as timm's do; {type(model).__name__} does not. "
            "Take the model from timm, or leave layer_decay out."
        )
    layers = depths(model, matcher(coarse=False))
    top = max(layers.values(), default=0)
    return {id(p): (layers[n], layer_decay ** (top - layers[n])) for n, p in model.named_parameters() if n in layers}


def _own_rates(net: Supervised, method: methods.Method) -> list[tuple[str, nn.Module, float]]:
    """The layers of a model that a method wants at rates of their own, with the name of their group."""
    found = []
    if method.classifier_lr_factor != 1 and (last := classifier(net.model, net.plan.classes)) is not None:
        found.append(("classifier", last, method.classifier_lr_factor))
    rates: Mapping[str, float] = getattr(net.model, "released_rates", {}) if method.released_rates else {}
    return found + [(f"model * {rate:g}", net.model.get_submodule(name), rate) for name, rate in rates.items()]


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
