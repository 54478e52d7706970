"""Traps of the layers that are tapped, and of heads that cannot read them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from deepsup.doctor.batch_checks import doubled
from deepsup.doctor.findings import ERROR, Finding, branch, error, from_error, warning
from deepsup.doctor.forward_checks import is_reentrant, rehearse
from deepsup.doctor.patient import Setup
from deepsup.errors import DeepsupError, HeadError, LayerError, LayerNotCalledError, LayerReusedError, UnknownLayerError
from deepsup.layers.dry_run import Trace
from deepsup.layers.selectors import check_readable
from deepsup.plans.plan import Branch, Plan, millions
from deepsup.supervision.attaching import Supervised
from deepsup.terms import INPUT

UNKNOWN_LAYER = error(
    "unknown-layer",
    why="Planning stops at a name that means no layer",
    fix="List the layers with: deepsup layers MODEL",
    raised=UnknownLayerError,
)
LAYER_NOT_CALLED = error(
    "layer-not-called",
    why="A tap on it never fires, and every training step would raise",
    fix="Choose another layer",
    raised=LayerNotCalledError,
)
REUSED_LAYER = error(
    "reused-layer",
    why="It gives several outputs in one forward, and nothing says which one a branch should read",
    fix="Name the call, at=['LAYER#2'] say, or choose the block around it",
    raised=LayerReusedError,
)
REENTRANT_CHECKPOINT = error(
    "reentrant-checkpoint",
    why="Inside the checkpoint there is no graph: a branch there trains its head alone, and the trunk gets nothing from it",
    fix="Checkpoint with use_reentrant=False, or tap the checkpointed block as a whole",
)
UNREADABLE_LAYER = error(
    "unreadable-layer",
    why="A head has nothing it could read there",
    fix="Choose the block around it",
    raised=LayerError,
)
INPLACE_SUCCESSOR = warning(
    "inplace-successor",
    why="Without a copy the branch would read what the next layer made of it; the tap therefore keeps one, in memory and time "
    "of every step",
    fix="Tap the layer that follows, or set inplace=False there",
)
SIDE_PATH = warning(
    "side-path",
    why="The branch trains layers that the prediction never reads: the main output gains nothing",
    fix="Choose a layer between the input and the prediction",
)
HEAD_ONLY = warning(
    "head-only",
    why="The branch's gradient reaches no weight of the trunk: it trains its own head and nothing else",
    fix="Unfreeze a layer below it (requires_grad_(True)), or tap a layer after the first trainable one",
)
LAYER_READ_INSIDE = warning(
    "layer-read-inside",
    why="What comes from above past the tensor that it returns is not seen at the tap: whether the branch is in conflict with "
    "it cannot be measured, and a rule that weighs the two would weigh a part only",
    fix="Tap a layer inside it, or the one around it",
)
HEAD_UNFIT = error(
    "head-unfit",
    why="Planning or the first step stops here",
    fix="Choose another head, for example head='pool'",
    raised=HeadError,
)
DTYPE_MISMATCH = warning(
    "dtype-mismatch",
    why="Outside autocast the activation is cast to the head's type in every step: a copy in memory, and from float32 to half "
    "precision a loss of digits",
    fix="Run the forward under torch.autocast, or give both one type: net.to(dtype) after attach",
)


def tapping(seen: Trace, plan: Plan, net: Supervised | None) -> Iterator[Finding]:
    """Traps of the layers that are tapped, and of heads that cannot read them."""
    heads = dict(net.heads.items()) if net else {}
    for b in plan.branches:
        layer = seen.layers.get(b.layer)
        if layer is None:
            continue
        if layer.overwritten:
            yield _overwritten(b)
        if not layer.requires_grad and layer.trains:
            yield HEAD_ONLY.found(branch(b.name), f"nothing before layer '{b.layer}' can be trained")
        if not layer.leads_to_output:
            yield SIDE_PATH.found(branch(b.name), f"layer '{b.layer}' does not lead to the prediction")
        if layer.read_inside:
            what = f"layer '{b.layer}' uses its output again before it returns it"
            what += f", and the gradient rule is {b.gradient!r}" if b.gradient.needs_above else ""
            yield LAYER_READ_INSIDE.found(branch(b.name), what, severity=ERROR if b.gradient.needs_above else "")
        own = [p for p in heads.get(b.name, nn.Module()).parameters() if p.is_floating_point()]
        if own and layer.dtype not in (None, own[0].dtype) and not torch.is_autocast_enabled(own[0].device.type):
            types = [str(t).removeprefix("torch.") for t in (layer.dtype, own[0].dtype)]
            what = f"layer '{b.layer}' gives {types[0]}, its head computes in {types[1]}"
            yield DTYPE_MISMATCH.found(branch(b.name), what)


def _overwritten(b: Branch) -> Finding:
    where = f"layer '{b.layer}'"
    if b.clone:
        copied = millions(4 * math.prod(b.feature.shape))
        what = f"what follows overwrites it in place, so branch '{b.name}' keeps a copy of {copied} bytes a sample"
        return INPLACE_SUCCESSOR.found(where, what)
    what = f"what follows overwrites it in place, which it did not when branch '{b.name}' was planned"
    why = "The branch would read what the next layer made of it; the tap stops the first step"
    fix = "Strip, plan and attach again: the tap will keep a copy; or set inplace=False in what follows"
    return INPLACE_SUCCESSOR.found(where, what, why=why, fix=fix, severity=ERROR)


def readable(setup: Setup, seen: Trace, plan: Plan, sample: Any) -> Iterator[Finding]:
    """Layers of a plan that was made before, which the model no longer has or which cannot be read any more."""
    for b in plan.branches:
        if b.layer == INPUT:
            continue
        try:
            if b.layer not in seen.layers:
                raise UnknownLayerError(
                    f"no layer matches '{b.layer}' in {seen.model}, though it was planned. Plan again"
                )
            check_readable(seen, b.layer)
        except DeepsupError as error:
            yield layer_refusal(error, b.layer, setup.core, sample)


def refusal(error: Exception, where: str) -> Finding:
    """What `plan` or `attach` raised; an error that is not ours comes from a head of the user's."""
    return from_error(error, where, trap=None if isinstance(error, DeepsupError) else HEAD_UNFIT)


def layer_refusal(error: Exception, layer: str, core: nn.Module, sample: Any) -> Finding:
    """A layer that cannot be tapped."""
    where = f"layer '{layer}'"
    if not isinstance(error, LayerError) or "no gradient can flow" not in str(error):
        return refusal(error, where)
    if not _checkpoints_reentrantly(core, sample):
        return from_error(error, where)
    return REENTRANT_CHECKPOINT.found(where, "it runs inside reentrant checkpointing")


def _checkpoints_reentrantly(core: nn.Module, sample: Any) -> bool:
    """Whether a node of reentrant checkpointing is in the graph of the output."""
    played = rehearse(core, doubled(sample, None)[0], ())
    return not isinstance(played, Exception) and is_reentrant(played.values())
