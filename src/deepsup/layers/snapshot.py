"""Run something on a model and leave it as it was: flags, buffers, attributes, hooks and random state."""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn

from deepsup.specs import INTEGER, hold

_TABLES = ("_parameters", "_buffers", "_modules")  # nn.Module's own, which are looked after one by one
_COLLECTIONS = (list, dict, set, deque, OrderedDict, defaultdict)


class Interrupts:
    """Ctrl-C, held back while what must not be left half done is done, and passed on otherwise.

    Holds from the start; `release` lets through, setting `held` holds again, `close` gives the handler back that was there. What
    came meanwhile is raised by `release` or `close`. Does nothing outside the main thread, where no signal arrives, and
    where Ctrl-C is ignored or kills at once.
    """

    def __init__(self) -> None:
        self.held, self._came = True, False
        main = threading.current_thread() is threading.main_thread()
        self._previous: Any = signal.getsignal(signal.SIGINT) if main else None
        if callable(self._previous):
            signal.signal(signal.SIGINT, self._handle)

    def release(self) -> None:
        """From here on let Ctrl-C through."""
        self.held = False
        self._raise()

    def close(self) -> None:
        """Give back the handler that was there, unless somebody has put in another since."""
        if callable(self._previous) and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._previous)
        self._raise()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.held:
            self._came = True
        else:
            self._previous(number, frame)

    def _raise(self) -> None:
        if self._came:
            self._came = False
            signal.raise_signal(signal.SIGINT)


@contextmanager
def untouched(
    model: nn.Module, *, parameters: bool = False, generators: Iterable[torch.Generator] = ()
) -> Iterator[None]:
    """Whatever happens inside, leave `model` and the random state as they were, also after an exception or Ctrl-C.

    Restores attributes, train flags and hooks of every module (lists, dicts and sets with their content), buffers (bit
    for bit) and the random states of torch, CUDA, Python, numpy and of `generators`; with `parameters` also parameter values,
    their gradients and `requires_grad`. Hooks, because models of transformers put their own on themselves in their first
    forward.
    """
    interrupts = Interrupts()
    try:
        modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
        scripted = [_Scripted(m) for m in model.modules() if isinstance(m, torch.jit.ScriptModule)]
        attributes = [dict(m.__dict__) for m in modules]
        held = [v for a in attributes for k, v in a.items() if type(v) in _COLLECTIONS and k not in _TABLES]
        contents = [v.copy() for v in held]
        tables = [(dict(m._buffers), dict(m._parameters), dict(m._modules)) for m in modules]
        tensors = {b: b.detach().clone() for b in model.buffers()}
        grads = {p: (p.grad, p.requires_grad) for p in model.parameters()}
        if parameters:
            tensors.update({p: p.detach().clone() for p in model.parameters()})
        with _same_random_numbers(model, generators):
            try:
                try:
                    interrupts.release()
                    yield
                finally:
                    interrupts.held = True
            finally:
                interrupts.held = True  # for a Ctrl-C that came right before the line above
                for module, saved, table in zip(modules, attributes, tables, strict=True):
                    _restore(module, saved, table)
                for script in scripted:
                    script.restore()
                for collection, content in zip(held, contents, strict=True):
                    _refill(collection, content)
                with torch.no_grad():
                    for tensor, value in tensors.items():
                        # expanded ones cannot be written to
                        if 0 not in tensor.stride() or not torch.equal(tensor, value):
                            tensor.copy_(value)
                for p, (grad, requires_grad) in grads.items():
                    p.grad, p.requires_grad = grad, requires_grad
    finally:
        interrupts.close()


def begin(seed: int) -> None:
    """Start the random numbers of torch, Python and numpy; inside `untouched`, which puts them back.

    Raises `ConfigError` for a seed that is no whole number.
    """
    hold("a dry run", INTEGER, seed=seed)
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


class _Scripted:
    """A module of TorchScript, whose attributes live in C++ and which takes no hooks: its flag and buffers."""

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self.module, self.training = module, module.training
        self.buffers = dict(module._buffers.items())

    def restore(self) -> None:
        if self.module.training is not self.training:
            self.module.training = self.training
        for name, buffer in self.buffers.items():
            if getattr(self.module, name) is not buffer:
                setattr(self.module, name, buffer)


@contextmanager
def _same_random_numbers(model: nn.Module, generators: Iterable[torch.Generator]) -> Iterator[None]:
    """Put the random states of torch, the model's devices, Python, numpy and `generators` back."""
    python_state = random.getstate()
    numpy_random = sys.modules["numpy"].random if "numpy" in sys.modules else None
    numpy_state = numpy_random.get_state() if numpy_random else None
    states = [(generator, generator.get_state()) for generator in generators]
    devices = {t.device.index for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=[d for d in devices if d is not None]):
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy_random:
                numpy_random.set_state(numpy_state)
            for generator, state in states:
                generator.set_state(state)


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
