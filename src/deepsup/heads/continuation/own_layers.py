"""The model's own last layers as the head of a branch: what it runs on the last layer like the tapped one."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress

import torch
from torch import Tensor, nn

from deepsup.errors import ContinuationError
from deepsup.features import Feature, Pick, split_call
from deepsup.heads.build_head import head
from deepsup.heads.continuation.cutting import INPUT, Point, cut, trace
from deepsup.layers.snapshot import untouched


@head(as_model=True)
def main(feature: Feature, classes: int, *, model: nn.Module, layer: str, main: Pick = ()) -> nn.Module:
    """The model's own last layers, shared with it: what it runs on the last layer like the tapped one (logit lens, LayerSkip).

    Like it is a later layer of the same class with as many channels: for a branch on `blocks.3` of twelve blocks what follows
    `blocks.11`, the norm included. Nothing of it is new: no parameter, nothing to store. Raises `ContinuationError` where
    torch.fx cannot trace or cut the model, or where no later layer is like the tapped one: what the model runs on top
    of that is its prediction itself.
    """
    if layer == INPUT:
        raise ContinuationError(
            "the head 'main' is what a model runs on one of its layers. Tap a layer, not the input."
        )
    path, call = split_call(layer)
    kind = type(model.get_submodule(path))
    with untouched(model):
        for module in model.modules():  # hooks of the user's must not see what a graph is traced with
            for hooks in [v for k, v in vars(module).items() if "_hooks" in k and isinstance(v, OrderedDict)]:
                hooks.clear()
        if call:  # of a layer that runs again and again: what follows its last run
            return cut(Point(model, f"{path}#-1", main))
        outputs = list(trace(Point(model, layer, main)).outputs)
        later = outputs[outputs.index(layer) + 1 :] if layer in outputs else []
        for path in reversed(later):
            if type(model.get_submodule(path)) is not kind:
                continue
            with suppress(ContinuationError):
                rest = cut(Point(model, path, main))
                if classes in _given_out(rest, feature)[1:]:
                    return rest
    raise Point(model, layer, main).refusal(
        f"no later {kind.__name__} gives out {feature.channels} channels from which the model goes on alone, so what it runs on "
        f"top of '{layer}' is its prediction itself",
        "Tap an earlier layer, or name layers of the model yourself: head=lambda feature, classes, *, model: "
        "nn.Sequential(model.norm, model.fc).",
    )


def _given_out(rest: nn.Module, feature: Feature) -> tuple[int, ...]:
    """The shape of what these layers make of two such activations; () where they cannot read them."""
    p = next(rest.parameters(), torch.zeros(()))
    with untouched(rest), torch.no_grad(), suppress(Exception):
        found = rest(torch.zeros(2, *feature.shape, dtype=p.dtype, device=p.device))
        return tuple(found.shape) if isinstance(found, Tensor) else ()
    return ()
