"""Optimisers from settings, with groups for the model and for the heads."""

from __future__ import annotations

from typing import Any

from torch import nn, optim

from deepsup import methods
from deepsup.errors import ConfigError
from deepsup.settings.training import OptimizerConfig
from deepsup.supervision.attaching import is_supervised, unwrap
from deepsup.supervision.parameter_groups import parameter_groups


def build(net: nn.Module, settings: OptimizerConfig) -> optim.Optimizer:
    """SGD, Adam or AdamW over the trainable parameters; groups are named as in `parameter_groups`."""
    rate = _rate(net, settings)
    groups: list[dict[str, Any]] = parameter_groups(
        net,
        lr=rate,
        weight_decay=settings.weight_decay,
        head_lr_factor=settings.head_lr_factor,
        head_weight_decay=settings.head_weight_decay,
        no_decay=settings.no_decay,
        layer_decay=settings.layer_decay,
        branch_lr_factors=settings.branch_lr_factors,
    )
    if not groups:
        raise ConfigError("there is nothing to train: every parameter is frozen. Set requires_grad on some of them.")
    if settings.name == "sgd":
        return optim.SGD(groups, lr=rate, momentum=settings.momentum, nesterov=settings.nesterov)
    if settings.name == "adam":
        return optim.Adam(groups, lr=rate)
    return optim.AdamW(groups, lr=rate)


def _rate(net: nn.Module, settings: OptimizerConfig) -> float:
    """The learning rate that was set, else the one of SGD that the method of `net` needs, else the optimiser's usual one."""
    plan = unwrap(net).plan if is_supervised(net) else None
    own = None if plan is None else methods.get(plan.method).rate_for(plan.classes)
    return own if own is not None and settings.lr is None and settings.name == "sgd" else settings.rate
