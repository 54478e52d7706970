"""Read one layer's output during one forward, and leave no trace.

A tap is a forward hook, registered once and fixed, that records only while its recorder is armed, that is inside our
own forward. Nothing is kept on modules between forwards, so deepcopy, pickle, EMA, `torch.compile(fullgraph=True)`,
recomputation under checkpointing and exceptions all find it idle.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .errors import TapError
from .features import Pick, picked


class Recorder:
    """What the armed taps have seen in the running forward, by branch name."""

    def __init__(self) -> None:
        self.armed = False
        self.seen: dict[str, Tensor] = {}


class Tap:
    """The forward hook of one branch; picklable, and idle unless `recorder` is armed.

    With `clone` it keeps a copy, because a later operation overwrites the output in place.
    """

    def __init__(self, name: str, recorder: Recorder, *, pick: Pick = (), clone: bool = False) -> None:
        self.name = name
        self.recorder = recorder
        self.pick = pick
        self.clone = clone

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self.recorder.armed:
            return
        if self.name in self.recorder.seen:
            raise TapError(
                f"the layer of branch '{self.name}' ran twice in one forward, so its output is ambiguous. "
                "Choose the block around it, or give each call a module of its own."
            )
        tensor = picked(output, self.pick)
        # A view made here, not later: autograd runs nodes youngest first, so the branch's gradient is added to the
        # trunk's and not the other way round. The sum then keeps the trunk's memory layout, without which a branch
        # of weight 0 would make the layers below pick other kernels and round differently (seen on ConvNeXt).
        self.recorder.seen[self.name] = tensor.clone() if self.clone else tensor.view_as(tensor)


def taps_on(model: nn.Module) -> list[tuple[nn.Module, int, Tap]]:
    """Every tap on `model` with the module and the hook id it is registered under."""
    return [
        (module, key, hook)
        for module in model.modules()
        for key, hook in module._forward_hooks.items()
        if isinstance(hook, Tap)
    ]


def remove_taps(model: nn.Module) -> None:
    """Remove every tap from `model`; also from copies, whose handles would point at the original."""
    for module, key, _ in taps_on(model):
        del module._forward_hooks[key]
