"""Run something on a model and leave it as it was: flags, buffers, attributes, hooks and random state."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_TABLES = ("_parameters", "_buffers", "_modules")  # nn.Module's own, which are looked after one by one
_COLLECTIONS = (list, dict, set, deque, OrderedDict, defaultdict)


@contextmanager
def untouched(model: nn.Module, *, parameters: bool = False) -> Iterator[None]:
    """Whatever happens inside, leave `model` and the random state as they were, also after an exception.

    Restores attributes, train flags and hooks of every module (lists, dicts and sets with their content), buffers (bit
    for bit) and the random states of torch, CUDA, Python and numpy; with `parameters` also parameter values, their gradients
    and `requires_grad`. Hooks, because models of transformers put their own on themselves in their first forward.
    """
    modules = list(model.modules())
    attributes = [dict(m.__dict__) for m in modules]
    held = [v for a in attributes for k, v in a.items() if type(v) in _COLLECTIONS and k not in _TABLES]
    contents = [v.copy() for v in held]
    python_state = random.getstate()
    numpy_random = sys.modules["numpy"].random if "numpy" in sys.modules else None
    numpy_state = numpy_random.get_state() if numpy_random else None
    tables = [(dict(m._buffers), dict(m._parameters), dict(m._modules)) for m in modules]
    tensors = {b: b.detach().clone() for b in model.buffers()}
    grads = {p: (p.grad, p.requires_grad) for p in model.parameters()}
    if parameters:
        tensors.update({p: p.detach().clone() for p in model.parameters()})
    devices = {t.device.index for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=[d for d in devices if d is not None]):
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy_random:
                numpy_random.set_state(numpy_state)
            for module, saved, table in zip(modules, attributes, tables, strict=True):
                _restore(module, saved, table)
            for collection, content in zip(held, contents, strict=True):
                _refill(collection, content)
            with torch.no_grad():
                for tensor, value in tensors.items():
                    if 0 not in tensor.stride() or not torch.equal(tensor, value):  # expanded ones cannot be written to
                        tensor.copy_(value)
            for p, (grad, requires_grad) in grads.items():
                p.grad, p.requires_grad = grad, requires_grad


def _restore(
    module: nn.Module, attributes: dict[str, Any], tables: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
) -> None:
    for key in [k for k in module.__dict__ if k not in attributes]:
        del module.__dict__[key]
    module.__dict__.update(attributes)
    live: tuple[dict[str, Any], ...] = (module._buffers, module._parameters, module._modules)
    for there, saved in zip(live, tables, strict=True):
        if list(there) != list(saved) or any(there[k] is not saved[k] for k in saved):
            there.clear()
            there.update(saved)


def _refill(collection: Any, content: Any) -> None:
    collection.clear()
    collection.extend(content) if isinstance(collection, (list, deque)) else collection.update(content)
