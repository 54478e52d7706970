"""What the doctor sees in one forward on a real batch: tapped layers, normalisation, and who gets a gradient.

Nothing is trained and no backward is run; which parameters would get a gradient is read off the graph.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset

from deepsup.doctor.findings import ERROR, Finding, finding, from_error
from deepsup.doctor.setup_checks import Setup, branch
from deepsup.errors import DeepsupError, OutputError
from deepsup.features import Pick, main_prediction, show_pick
from deepsup.layers.dry_run import Trace, as_call
from deepsup.plans.plan import Branch, Plan, millions
from deepsup.supervision.attaching import Outputs, Supervised, supervising

IGNORED = (-100, 255)  # labels that mean "no class" by custom
SAID = 5  # of a list of names
AUXILIARY = ("aux1", "aux2", "AuxLogits", "aux_classifier")  # auxiliary classifiers that may be taken out


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
                more = f" and {len(bad) - SAID} more" if len(bad) > SAID else ""
                what = f"a batch of {size} leaves {'them' if len(bad) > 1 else 'it'} one value per channel"
                yield finding("one-value-per-channel", ", ".join(bad[:SAID]) + more, what)


def _called(where: str, name: str) -> str:
    return ", ".join(part for part in (where, f"layer '{name}'" if name else "") if part)


def _is_synchronised(module: nn.Module) -> bool:
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return isinstance(module, nn.SyncBatchNorm) and several and torch.distributed.get_world_size() > 1


def length(sample: Any) -> int:
    """How many samples a model's input holds."""
    args, kwargs = as_call(sample)
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.ndim]
    return len(max(tensors, key=lambda t: t.ndim)) if tensors else 1


def sizes_of(batches: Any) -> set[int] | None:
    """The batch sizes of an epoch, as far as they can be told without reading a batch; None if not at all."""
    if isinstance(batches, DataLoader):
        size, sampler = batches.batch_size, batches.sampler
        try:
            total = len(sampler)  # type: ignore[arg-type]
        except TypeError:
            return None
        if not size:
            return None
        left = 0 if batches.drop_last else total % size
        return ({size} if total >= size else set()) | ({left} if left else set())
    if isinstance(batches, (list, tuple)):
        return {length(b[0]) for b in batches if isinstance(b, (list, tuple)) and b}
    return None


def batching(plan: Plan, sample: Any, target: Any, batches: Any) -> Iterator[Finding]:
    """Batches that lack what the method compares: a second crop of each image, or the samples of the batch before."""
    labels = target if isinstance(target, Tensor) and target.ndim else None
    size = length(sample) if labels is None else len(labels)
    if plan.views == 2 and (size % 2 or (labels is not None and not torch.equal(*labels.chunk(2)))):
        batch = "the sample" if labels is None else "the target"
        said = f"{batch} is of {size}, an odd number" if size % 2 else f"the two halves of these {size} labels differ"
        what = f"method '{plan.method}' needs batches [crops 1; crops 2] with the labels repeated, and {said}"
        yield finding("one-crop", "batch", what)
    first, second = _labels_of_two(batches)
    if plan.overlap and first is not None and second is not None:
        # Of the first batch of all every sample is new, of a later one the second half.
        if not any(_begins(second, new) for new in (first, first[len(first) // 2 :])):
            what = f"method '{plan.method}' learns from the batch before, and by its {len(second)} labels the second of these "
            what += f"batches does not begin with the new samples of the first (of {len(first)})"
            yield finding("no-overlap", "batches", what)


def _begins(labels: Tensor, new: Tensor) -> bool:
    """Whether a batch begins with these samples and brings more."""
    return len(labels) > len(new) and torch.equal(labels[: len(new)], new.to(labels.device))


def _labels_of_two(batches: Any) -> tuple[Tensor | None, Tensor | None]:
    """The labels of the first two batches of a list; others are not read, which could move a sampler."""
    if not isinstance(batches, (list, tuple)):
        return None, None
    pairs = [b for b in batches[:2] if isinstance(b, (list, tuple)) and len(b) == 2]
    found = [y for _, y in pairs if isinstance(y, Tensor) and y.ndim]
    return (found[0], found[1]) if len(found) == 2 else (None, None)


def no_batch(sample: Any) -> Finding | None:
    """What is given in place of a batch by mistake: nothing, a loader, a dataset."""
    loads = isinstance(sample, (DataLoader, Dataset, Iterator)) or (
        hasattr(sample, "dataset") and hasattr(sample, "__iter__")
    )
    if sample is not None and not loads:
        return None
    given = "None" if sample is None else f"a {type(sample).__name__}"
    fix = "Pass a batch, not the loader: sample, target = next(iter(loader))"
    return finding("forward-failed", "sample", f"it is {given}", fix=fix)


def doubled(sample: Any, target: Any) -> tuple[Any, Any]:
    """Sample and target of a lone input of one sample, twice: batch normalisation needs two."""
    if not isinstance(sample, Tensor) or not sample.ndim or len(sample) != 1:
        return sample, target
    twice = [2] + [1] * (target.ndim - 1) if isinstance(target, Tensor) and target.ndim else []
    return sample.repeat(2, *[1] * (sample.ndim - 1)), target.repeat(twice) if twice and len(target) == 1 else target


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
        return {"main": main_prediction(outputs.main, pick), **outputs.aux}
    except Exception as error:
        return error


def starved(net: nn.Module, values: Iterable[Tensor]) -> dict[str, nn.Parameter]:
    """Trainable parameters of the net that no loss reaches, by name."""
    reached = {id(n.variable) for v in values for n in nodes_above(v) if hasattr(n, "variable")}
    return {name: p for name, p in net.named_parameters() if p.requires_grad and id(p) not in reached}


def nodes_above(value: Tensor) -> set[Any]:
    """Every node of the autograd graph of `value`."""
    found: set[Any] = set()
    todo: list[Any] = [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return found


def is_reentrant(values: Iterable[Tensor]) -> bool:
    """Whether reentrant checkpointing hides a part of the graph."""
    return any(type(n).__name__.startswith("CheckpointFunction") for v in values for n in nodes_above(v))


def distributed(setup: Setup, values: list[Tensor]) -> Iterator[Finding]:
    """DistributedDataParallel that will wait for gradients which never come, or looks for what is not there."""
    ddp = setup.ddp
    if ddp is None or not values:
        return
    known = {id(p) for p in ddp.parameters()}
    missing = [n for n, p in starved(setup.net or setup.core, values).items() if id(p) in known]
    if missing and not ddp.find_unused_parameters and not ddp.static_graph and not is_reentrant(values):
        shown = ", ".join(missing[:SAID]) + (f" and {len(missing) - SAID} more" if len(missing) > SAID else "")
        yield finding("unused-parameters", "model", f"no loss reaches {shown}")
    if ddp.find_unused_parameters and not missing and any(m is setup.net for m in ddp.modules()):
        what = "DistributedDataParallel was made with find_unused_parameters=True"
        yield finding("unused-parameter-search", "model", what)


def tapping(seen: Trace, plan: Plan, net: Supervised | None) -> Iterator[Finding]:
    """Traps of the layers that are tapped, from the dry run."""
    heads = dict(net.heads.items()) if net else {}
    for b in plan.branches:
        layer = seen.layers.get(b.layer)
        if layer is None:
            continue
        if layer.overwritten:
            yield _overwritten(b)
        if not layer.requires_grad and layer.trains:
            yield finding("head-only", branch(b.name), f"nothing before layer '{b.layer}' can be trained")
        if not layer.leads_to_output:
            yield finding("side-path", branch(b.name), f"layer '{b.layer}' does not lead to the prediction")
        if layer.read_inside:
            what = f"layer '{b.layer}' uses its output again before it returns it"
            what += f", and the gradient rule is {b.gradient!r}" if b.gradient.needs_above else ""
            yield finding("layer-read-inside", branch(b.name), what, severity=ERROR if b.gradient.needs_above else "")
        own = [p for p in heads.get(b.name, nn.Module()).parameters() if p.is_floating_point()]
        if own and layer.dtype not in (None, own[0].dtype) and not torch.is_autocast_enabled(own[0].device.type):
            types = [str(t).removeprefix("torch.") for t in (layer.dtype, own[0].dtype)]
            what = f"layer '{b.layer}' gives {types[0]}, its head computes in {types[1]}"
            yield finding("dtype-mismatch", branch(b.name), what)


def _overwritten(b: Branch) -> Finding:
    where = f"layer '{b.layer}'"
    if b.clone:
        copied = millions(4 * math.prod(b.feature.shape))
        what = f"what follows overwrites it in place, so branch '{b.name}' keeps a copy of {copied} bytes a sample"
        return finding("inplace-successor", where, what)
    what = f"what follows overwrites it in place, which it did not when branch '{b.name}' was planned"
    why = "The branch would read what the next layer made of it; the tap stops the first step"
    fix = "Strip, plan and attach again: the tap will keep a copy; or set inplace=False in what follows"
    return finding("inplace-successor", where, what, why=why, fix=fix, severity=ERROR)


def further_predictions(seen: Trace, core: nn.Module) -> Iterator[Finding]:
    """Predictions of the model's own that no loss reads, and how those of torchvision's and timm's models are switched off."""
    own = [show_pick(p) for p, shape in seen.output.items() if p != seen.main and shape == seen.output[seen.main]]
    if own:
        what = f"it returns further predictions in training ({', '.join(own)})"
        parts = [f"model.{name} = None" for name in AUXILIARY if isinstance(getattr(core, name, None), nn.Module)]
        flag = ["model.aux_logits = False"] if getattr(core, "aux_logits", None) is True else []
        known = flag + parts
        fix = f"Switch them off before planning and attaching: {'; '.join(known)}" if known else ""
        yield finding("unused-prediction", "model", what, fix=fix)


def failed(error: Exception, normalisation: Normalisation, where: str = "model") -> Finding:
    """A forward that failed."""
    if "Expected more than 1 value per channel" in str(error):
        what = "this batch leaves it one value per channel"
        return finding("one-value-per-channel", normalisation.last or where, what)
    if isinstance(error, DeepsupError):
        return from_error(error, where, code="" if isinstance(error, OutputError) else "forward-failed")
    return finding("forward-failed", where, f"the forward on the sample failed: {type(error).__name__}: {error}")
