"""All that a run could change in a model, held on to and compared bit for bit."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn


def snapshot(model: nn.Module) -> dict[str, Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return {
        "flags": [(n, m.training) for n, m in model.named_modules()],
        "attributes": [(n, {k: repr(v) for k, v in vars(m).items()}) for n, m in model.named_modules()],
        "hooks": [(n, [list(getattr(m, h).items()) for h in hooks]) for n, m in model.named_modules()],
        "buffers": [(n, id(b), b.clone()) for n, b in model.named_buffers()],
        "parameters": [(n, id(p), p.requires_grad, id(p.grad), p.clone()) for n, p in model.named_parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "random": [torch.get_rng_state(), random.getstate()],
    }


def assert_untouched(before: Any, after: Any, at: str = "") -> None:
    """Equal, tensors bit for bit."""
    assert type(before) is type(after), at
    if isinstance(before, Tensor):
        assert torch.equal(before, after), at
    elif isinstance(before, dict):
        assert list(before) == list(after), at
        for key in before:
            assert_untouched(before[key], after[key], f"{at}.{key}")
    elif isinstance(before, (list, tuple)):
        assert len(before) == len(after), at
        for i, (a, b) in enumerate(zip(before, after, strict=True)):
            assert_untouched(a, b, f"{at}[{i}]")
    else:
        assert before == after, at


def with_grads(model: nn.Module) -> nn.Module:
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    return model
