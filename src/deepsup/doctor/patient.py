"""What is looked at: who is who in the module that was given, and how it is run and left as it was.

`Setup` finds the supervised net and the user's model inside whatever was given; `opened` runs them without their
wrappers and leaves everything as it was; what may remember something is tried as a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from deepsup.layers.snapshot import untouched
from deepsup.layers.taps import Tap, taps_on
from deepsup.layers.wrappers import bare, chain, clean, is_compiled, is_sharded
from deepsup.supervision.attaching import Supervised
from deepsup.supervision.objectives import Objective


@dataclass(frozen=True)
class Setup:
    """Who is who in the module that was given."""

    given: nn.Module
    net: Supervised | None
    core: nn.Module  # the user's model, without wrappers
    compiled: tuple[str, ...]  # layers of the plain model that are compiled; "" is the model itself
    sharded: bool

    @classmethod
    def of(cls, given: nn.Module) -> Setup:
        """Look through compile, DataParallel, DistributedDataParallel and Fabric wrappers."""
        net = next((m for m in given.modules() if isinstance(m, Supervised)), None)
        core = bare(net.model if net else given)
        wrapped = given if net is None else net.model
        compiled = [clean(n) for n, m in core.named_modules() if is_compiled(m)]
        if wrapped is not core and any(is_compiled(m) for m in chain(wrapped)):
            compiled.insert(0, "")
        return cls(given, net, core, tuple(dict.fromkeys(compiled)), is_sharded(given))

    @property
    def ddp(self) -> DistributedDataParallel | None:
        """The DistributedDataParallel in it, if there is one."""
        return next((m for m in self.given.modules() if isinstance(m, DistributedDataParallel)), None)


@contextmanager
def opened(setup: Setup) -> Iterator[None]:
    """Inside, the net runs without wrappers, compilation or stray taps; afterwards all is as it was, also on exceptions."""
    root = setup.net or setup.core
    stray = [] if setup.net else [(m, dict(m._forward_hooks)) for m, _, _ in taps_on(setup.core)]
    with untouched(root):
        try:
            for module in list(root.modules()):
                if module._compiled_call_impl is not None:
                    module._compiled_call_impl = None
                for name, child in module.named_children():
                    if bare(child) is not child:
                        module._modules[name] = bare(child)
            for module, hooks in stray:
                for key in [k for k, hook in hooks.items() if isinstance(hook, Tap)]:
                    module._forward_hooks.pop(key, None)
            yield
        finally:
            for module, hooks in stray:
                module._forward_hooks.clear()
                module._forward_hooks.update(hooks)


def copied(thing: Any) -> Any:
    """A copy of a loss or rule, which may have a state of its own; what cannot be copied is run itself."""
    try:
        return copy.deepcopy(thing)
    except Exception:
        return thing


def twin(objective: Objective) -> Objective:
    """An objective to try things on: whatever the losses and the objective remember stays as it is."""
    other = copy.copy(objective)
    other.memory = dict(objective.memory)
    other.edges = tuple(replace(edge, loss=copied(edge.loss)) for edge in objective.edges)
    return other
