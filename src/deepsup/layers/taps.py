"""Read one layer's output during one forward, and leave no trace.

A tap is a forward hook, registered once and fixed, that records only while its recorder is armed, that is inside our
own forward and in its thread. Nothing is kept on modules between forwards, so deepcopy, pickle, EMA,
`torch.compile(fullgraph=True)`, recomputation under checkpointing and exceptions all find it idle.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deepsup.errors import AlreadyAttachedError, AttachError, CompiledModelError, DataParallelError, TapError
from deepsup.features import Pick, picked, replaced, show_pick, tensors_in
from deepsup.gradients import ADD, Fork, Rule
from deepsup.layers.wrappers import is_compiled, is_sharded


class Reached(BaseException):  # no Exception: a model that catches those in its forward must let this one through
    """Carries the activation of a tap out of a forward that need not go on."""

    def __init__(self, feature: Tensor) -> None:
        super().__init__()
        self.feature = feature


class Recorder(threading.local):
    """What the armed taps have seen in the running forward, by branch name; of each thread its own."""

    def __init__(self) -> None:
        self.supervise: bool | None = None  # whether heads run; None: as the train flag says
        self.stop: str | None = None  # the branch behind whose tap the forward ends with `Reached`
        self.armed = False
        self.head: str | None = None  # the branch whose head runs now, where a tap in there is waiting
        self.inside: Tensor | None = None  # what it has seen
        self.graph = False  # gradients were on when the forward began
        self.ran: dict[str, int] = {}  # how often the layers of branches on one call ran
        self.seen: dict[str, Tensor] = {}
        self.versions: dict[str, int] = {}  # of `seen` at that moment; an operation in place would raise it

    def begin(self) -> None:
        """A forward begins in which taps record."""
        self.armed = True
        self.graph = torch.is_grad_enabled()

    def end(self) -> None:
        """It is over, or failed: nothing is kept."""
        self.armed = False
        self.ran.clear()
        self.seen.clear()
        self.versions.clear()

    def __reduce__(self) -> Any:
        return Recorder, ()  # a copy begins idle


class Tap:
    """The forward hook of one branch; picklable, and idle unless `recorder` is armed.

    With `clone` it keeps a copy, because a later operation overwrites the output in place. With `requires_grad` it
    raises `TapError` where the output, unlike in the dry run, is computed without a graph. With a `rule` other than
    `add`, or a `slot` to measure into, the activation is forked, so that both gradients are at hand in backward.
    `call` says which run of the layer in one forward is read, from 1, or -1 for the last; 0 for a layer that runs once.
    """

    def __init__(
        self,
        name: str,
        recorder: Recorder,
        *,
        pick: Pick = (),
        clone: bool = False,
        requires_grad: bool = False,
        rule: Rule = ADD,
        call: int = 0,
    ) -> None:
        self.name = name
        self.call = call
        self.recorder = recorder
        self.pick = pick
        self.clone = clone
        self.requires_grad = requires_grad
        self.rule = rule
        self.factor = torch.ones(())  # the rule's, for the present progress; replaced, never written into
        self.slot: Tensor | None = None

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        stop = self.recorder.stop == self.name
        if not (stop or self.recorder.armed) or not self._due():
            return None
        if stop:
            raise Reached(picked(output, self.pick))
        self._check_call()
        if self.requires_grad and self.recorder.graph and not torch.is_grad_enabled():
            raise TapError(
                f"no gradient can flow from branch '{self.name}' into its layer: the output is computed without a graph, "
                "as reentrant checkpointing does, and as it was not when this was planned. Checkpoint with "
                "use_reentrant=False, or plan again."
            )
        tensor = output if isinstance(output, Tensor) and not self.pick else self._picked(output)
        if torch.is_grad_enabled() and tensor.requires_grad and (self.slot is not None or self.rule != ADD):
            factor = self.factor if self.rule.scales else None  # an unused input would only burden a compiled graph
            trunk, seen = Fork.apply(tensor, self.slot, factor, self.rule, self.clone)
            self._keep(seen)
            if isinstance(output, Tensor):
                return trunk
            for pick, other in tensors_in(output).items():  # the same tensor may stand in several places
                if other is tensor:
                    output = replaced(output, pick, trunk)
            return output
        # A view made here, not later: autograd runs nodes youngest first, so the branch's gradient is added to the
        # trunk's and not the other way round. The sum then keeps the trunk's memory layout, without which a branch
        # of weight 0 would make the layers below pick other kernels and round differently (seen on ConvNeXt).
        seen = tensor.clone() if self.clone else tensor.view_as(tensor)
        if seen.requires_grad and not torch.compiler.is_compiling():
            # Where the layer itself reads its output again (a decoder's list of maps), the branch does come first.
            seen.register_hook(partial(_laid_out_like, torch.empty_like(tensor, device="meta").stride()))  # type: ignore[no-untyped-call]
        self._keep(seen)
        return None

    def _due(self) -> bool:
        """Whether this run of the layer is the one that the branch reads; of the last one every run may be it."""
        if not self.call:
            return True
        ran = self.recorder.ran[self.name] = self.recorder.ran.get(self.name, 0) + 1
        return self.call in (ran, -1)

    def _check_call(self) -> None:
        """Raise `TapError` for a second run that was not planned, and for a last one that is to be measured."""
        if self.name in self.recorder.seen and not self.call:
            raise TapError(
                f"the layer of branch '{self.name}' ran twice in one forward, so its output is ambiguous. "
                "Name the call, at=['LAYER#1'] or '#-1' for the last, or choose the block around it."
            )
        if self.call < 0 and self.slot is not None:
            raise TapError(
                f"branch '{self.name}' reads the last call of its layer, which is known only when the forward is over, so its "
                "gradients cannot be measured apart. Name the call by its number, such as 'LAYER#3'."
            )

    def _picked(self, output: Any) -> Tensor:
        """The tensor that the branch reads, of an output with several. Raises `TapError` where there is none."""
        try:
            found = picked(output, self.pick)
        except LookupError:
            found = None
        if not isinstance(found, Tensor):
            there = ", ".join(repr(show_pick(p)) for p in tensors_in(output)) or "none"
            raise TapError(
                f"the layer of branch '{self.name}' gives no tensor at {show_pick(self.pick)!r} of its output, as the plan has "
                f"it; there are tensors at {there}. Plan again."
            )
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "slot": None}  # a copy is not measured by the original's meter

    def _keep(self, seen: Tensor) -> None:
        self.recorder.seen[self.name] = seen
        if not torch.compiler.is_compiling() and not seen.is_inference():
            self.recorder.versions[self.name] = seen._version


class InputTap(Tap):
    """Marks a model as supervised for a branch on its input, which our own forward reads; as a hook it does nothing."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        return None


class FeatureTap(Tap):
    """Reads what enters the layer that it is registered on, one vector a sample, (N, D)."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self.recorder.armed:
            super().__call__(module, args, self._entering(args))

    def _entering(self, args: Any) -> Tensor:
        if not args:
            raise TapError(
                f"the layer that makes the scores of '{self.name}' was called by keyword arguments only, so its feature is not "
                "found. Call it as layer(x)."
            )
        return args[0].flatten(1)  # type: ignore[no-any-return]


class HeadTap(FeatureTap):
    """The same inside the head of a branch, which may be the model's own layer: it reads while that head runs."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self.recorder.head == self.name:
            self.recorder.inside = self._entering(args)


def _laid_out_like(strides: tuple[int, ...], gradient: Tensor | None) -> Tensor | None:
    """The gradient in the memory layout of the activation, which is that of the trunk's gradient; an idle branch sends none."""
    if gradient is None or gradient.stride() == strides:
        return None
    return torch.empty_strided(gradient.shape, strides, dtype=gradient.dtype, device=gradient.device).copy_(gradient)


def taps_on(model: nn.Module, recorder: Recorder | None = None) -> list[tuple[nn.Module, int, Tap]]:
    """Every tap on `model`, or those of one net (its `recorder`), with the module and the hook id it is registered under."""
    return [
        (module, key, hook)
        for module in model.modules()
        for key, hook in module._forward_hooks.items()
        if isinstance(hook, Tap) and recorder in (None, hook.recorder)
    ]


def refuse_wrapped(model: nn.Module) -> None:
    """Raise the `AttachError` that says why taps cannot go on this model: supervised, compiled or wrapped already."""
    kind = type(model).__name__
    if taps_on(model):
        raise AlreadyAttachedError(f"this {kind} is supervised already. Strip it first: model = deepsup.strip(net).")
    if isinstance(model, torch.jit.ScriptModule):
        raise AttachError(
            f"this {kind} is compiled to TorchScript, where nothing can be read. Attach to the model before torch.jit."
        )
    if isinstance(model, nn.DataParallel):
        raise DataParallelError(
            "nn.DataParallel cannot be supervised. Attach to the model inside, use DistributedDataParallel."
        )
    if isinstance(model, DistributedDataParallel) or is_sharded(model):
        raise AttachError(
            f"this model is wrapped for several processes already ({kind}), so heads added now would not be kept in "
            "step. Attach first, then wrap: DistributedDataParallel(deepsup.attach(model, plan))."
        )
    refuse_compiled(model, "")


def refuse_compiled(model: nn.Module, layer: str) -> None:
    """Raise `CompiledModelError` if `layer`, or a module around it, was compiled: a tap on it would never fire."""
    parts = layer.split(".") if layer else []
    for depth in range(len(parts) + 1):
        path = ".".join(parts[:depth])
        module = model.get_submodule(path)
        if is_compiled(module):
            raise CompiledModelError(
                f"{f'layer {path!r}' if path else 'this model'} was compiled before attach, so its taps would never fire. "
                "Attach to the plain model first, then compile: torch.compile(deepsup.attach(model, plan))."
            )


def remove_taps(model: nn.Module, recorder: Recorder | None = None) -> None:
    """Remove every tap from `model`, or those of one net; also from copies, whose handles would point at the original."""
    for module, key, tap in taps_on(model, recorder):
        tap.slot = None
        del module._forward_hooks[key]


def put_back(taps: Iterable[tuple[nn.Module, int, Tap]]) -> None:
    """Put taps where `taps_on` found them."""
    for module, key, tap in taps:
        module._forward_hooks[key] = tap
