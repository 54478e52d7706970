"""What the laws are asked of: every architecture, and the state that must stay as it was."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

import deepsup as ds
from tests.support.architectures import ARCHITECTURES, Architecture

every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a law promises to leave alone."""
    return {
        "class": type(model),
        "parameters": [(n, id(p), p.requires_grad, p.grad) for n, p in model.named_parameters()],
        "values": {k: v.clone() for k, v in model.state_dict().items()},
        "flags": [(n, m.training) for n, m in model.named_modules()],
        "hooks": [
            (n, list(m._forward_hooks.items()), list(m._forward_pre_hooks.items()), list(m._backward_hooks.items()))
            for n, m in model.named_modules()
        ],
        "attributes": [(n, sorted(vars(m))) for n, m in model.named_modules()],
        "repr": repr(model),
        "random": (torch.get_rng_state(), random.getstate()),
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key in before:
        if key == "values":
            assert list(before[key]) == list(after[key])
            for name in before[key]:
                assert torch.equal(before[key][name], after[key][name]), name
        elif key == "random":
            assert torch.equal(before[key][0], after[key][0])
            assert before[key][1] == after[key][1]
        else:
            assert before[key] == after[key], key


def mixed_flags(model: nn.Module) -> None:
    """Train and eval modules side by side, a frozen parameter: the state that a careless restore would flatten."""
    model.train()
    for i, module in enumerate(model.modules()):
        if isinstance(module, nn.BatchNorm2d) and i % 2:
            module.eval()
    next(model.parameters()).requires_grad_(False)


def train(net: nn.Module, objective: ds.Objective, arch: Architecture, steps: int = 3) -> nn.Module:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    for step in range(steps):
        optimizer.zero_grad()
        terms = objective(net(arch.sample(seed=step)), arch.target(seed=step), progress=step / steps)
        terms.total.backward()
        optimizer.step()
    return net
