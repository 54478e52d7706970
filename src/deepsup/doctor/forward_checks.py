"""Traps that one forward on a real batch shows: whether it runs, what normalisation sees, and which parameters a loss reaches.

Nothing is trained and no backward is run; which parameters would get a gradient is read off the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deepsup.doctor.findings import FORWARD_FAILED, Finding, error, from_error, some, warning
from deepsup.errors import DeepsupError, OutputError
from deepsup.features import Pick, main_prediction, show_pick
from deepsup.layers.dry_run import Trace, as_call
from deepsup.layers.readers import nodes_above
from deepsup.supervision.attaching import Outputs, Supervised, supervising
from deepsup.supervision.idle_branches import is_absent

AUXILIARY = ("aux1", "aux2", "AuxLogits", "aux_classifier")  # auxiliary classifiers that may be taken out

ONE_VALUE_PER_CHANNEL = error(
    "one-value-per-channel",
    why="Batch normalisation has no spread to divide by and stops: 'Expected more than 1 value per channel'",
    fix="Leave out the last batch (drop_last=True), take another batch size, or normalise with GroupNorm",
)
UNUSED_PREDICTION = warning(
    "unused-prediction",
    why="The model computes them in training, but no loss reaches them: their layers stay as they were initialised",
    fix="Let its forward return the prediction alone in training",
)
OUTPUT_UNCLEAR = error(
    "output-unclear", why="Nobody can say where the prediction is", fix="Say it with main='NAME'", raised=OutputError
)


def rehearse(net: nn.Module, sample: Any, pick: Pick) -> dict[str, Tensor] | Exception:
    """One forward in training mode with gradients on: the predictions by name, or why there are none."""
    args, kwargs = as_call(sample)
    if not net.training:
        net.train()
    try:
        with torch.enable_grad():
            if isinstance(net, Supervised):
                net.progress_known = True  # rules that change over training have the factor they had
                with supervising(net):
                    outputs = net(*args, **kwargs)
            else:
                outputs = Outputs(net(*args, **kwargs), {})
        there = {name: t for name, t in outputs.aux.items() if not is_absent(t)}
        return {"main": main_prediction(outputs.main, pick), **there}
    except Exception as error:
        return error


def failed(error: Exception, normalisation: Normalisation, where: str = "model") -> Finding:
    """A forward that failed."""
    if "Expected more than 1 value per channel" in str(error):
        what = "this batch leaves it one value per channel"
        return ONE_VALUE_PER_CHANNEL.found(normalisation.last or where, what)
    if isinstance(error, DeepsupError):
        return from_error(error, where, trap=None if isinstance(error, OutputError) else FORWARD_FAILED)
    return FORWARD_FAILED.found(where, f"the forward on the sample failed: {type(error).__name__}: {error}")


def further_predictions(seen: Trace, core: nn.Module) -> Iterator[Finding]:
    """Predictions of the model's own that no loss reads, and how those of torchvision's and timm's models are switched off."""
    own = [show_pick(p) for p, shape in seen.output.items() if p != seen.main and shape == seen.output[seen.main]]
    if own:
        what = f"it returns further predictions in training ({', '.join(own)})"
        parts = [f"model.{name} = None" for name in AUXILIARY if isinstance(getattr(core, name, None), nn.Module)]
        flag = ["model.aux_logits = False"] if getattr(core, "aux_logits", None) is True else []
        known = flag + parts
        fix = f"Switch them off before planning and attaching: {'; '.join(known)}" if known else ""
        yield UNUSED_PREDICTION.found("model", what, fix=fix)


class Normalisation:
    """How many values a channel every batch normalisation sees for each sample, while `watching`."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}  # by name, of the whole batch
        self.last = ""

    @contextmanager
    def watching(self, parts: dict[str, nn.Module]) -> Iterator[None]:
        """`parts`: modules by the words that come before a layer's name."""
        handles = [
            m.register_forward_pre_hook(functools.partial(self._see, _called(where, name)))
            for where, part in parts.items()
            for name, m in part.named_modules()
            if isinstance(m, _BatchNorm) and not _is_synchronised(m)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, name: str, module: nn.Module, args: Any) -> None:
        self.last = name
        x = args[0] if args else None
        uses_batch = module.training or getattr(module, "running_mean", None) is None
        if isinstance(x, Tensor) and x.ndim >= 2 and uses_batch:
            self.values[name] = x.numel() // max(1, x.shape[1])

    def findings(self, batch: int, sizes: Iterable[int]) -> Iterator[Finding]:
        """Layers that would see one value a channel in a batch of one of `sizes`; `batch` is what was watched."""
        for size in sorted(set(sizes)):
            bad = [name for name, n in self.values.items() if size and n * size <= batch]
            if bad:
                what = f"a batch of {size} leaves {'them' if len(bad) > 1 else 'it'} one value per channel"
                yield ONE_VALUE_PER_CHANNEL.found(some(bad), what)


def _called(where: str, name: str) -> str:
    return ", ".join(part for part in (where, f"layer '{name}'" if name else "") if part)


def _is_synchronised(module: nn.Module) -> bool:
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return isinstance(module, nn.SyncBatchNorm) and several and torch.distributed.get_world_size() > 1


def starved(net: nn.Module, values: Iterable[Tensor]) -> dict[str, nn.Parameter]:
    """Trainable parameters of the net that no loss reaches, by name."""
    reached = {id(n.variable) for v in values for n in nodes_above(v) if hasattr(n, "variable")}
    return {name: p for name, p in net.named_parameters() if p.requires_grad and id(p) not in reached}


def is_reentrant(values: Iterable[Tensor]) -> bool:
    """Whether reentrant checkpointing hides a part of the graph."""
    return any(type(n).__name__.startswith("CheckpointFunction") for v in values for n in nodes_above(v))
