"""What a plan says beside its table: what its user may not expect of these layers, heads and losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deepsup import heads, losses, methods
from deepsup.features import show_pick
from deepsup.layers.dry_run import Layer, Trace
from deepsup.plans.branch_layers import Placed
from deepsup.plans.plan import Branch
from deepsup.predictions import Prediction
from deepsup.terms import INPUT


def notes(preset: methods.Method, placed: Placed, branches: Sequence[Branch], prediction: Prediction) -> Iterable[str]:
    """All of them, those of branches first."""
    for b in branches:
        yield from _of_layer(b, placed.layers[b.name])
    seen = placed.seen
    for b in branches:
        yield from _of_update(b, seen)
    main = seen.output[seen.main]
    own = [show_pick(p) for p, shape in seen.output.items() if p != seen.main and shape == main]
    if own:
        yield f"the model returns further predictions of its own in training ({', '.join(own)}); no loss is put on them"
    for b in branches:  # heads of the user's in place of those that make the method what it is
        published = placed.wanted[b.name].head
        if preset.places is not None and b.layer != INPUT and published != heads.AUTO and b.head != published:
            yield f"branch '{b.name}' has the head {heads.show(b.head)}; method '{preset.name}' has {published}"
    yield from _one_channel(prediction, preset.main_loss)


def _of_layer(b: Branch, layer: Layer) -> Iterable[str]:
    if layer.guessed:
        other = "NCL" if b.feature.layout == "NLC" else "NLC"
        yield (
            f"nothing but its shape tells where '{b.layer}' has its channels: branch '{b.name}' reads {b.feature} as "
            f"{b.feature.layout}; if that is wrong, layout={{'{b.layer}': '{other}'}}"
        )
    if b.clone:
        yield f"'{b.layer}' is overwritten in place by what follows, so its tap keeps a copy"
    if b.read_inside:
        yield (
            f"'{b.layer}' uses its output again before it returns it: whether branch '{b.name}' is in conflict with what "
            "comes from above cannot be measured there"
        )
    if not b.requires_grad and b.layer != INPUT:
        yield f"nothing before '{b.layer}' can be trained: branch '{b.name}' trains its head only"
    if not layer.leads_to_output:
        yield f"'{b.layer}' does not lead to the prediction: branch '{b.name}' trains a side path"
    if show_pick(b.pick):
        yield f"'{b.layer}' returns several tensors; branch '{b.name}' reads '{show_pick(b.pick)}'"


def _of_update(b: Branch, seen: Trace) -> Iterable[str]:
    """A point of the trunk where blocks are lists without a module around them: the stream itself passes by it."""
    layer = seen.layers.get(b.layer)
    if layer is None or not layer.added or b.layer not in seen.trunk:
        return
    later = [name for name in seen.trunk if not seen.layers[name].added and seen.layers[name].order > layer.order]
    place = f"the next layer that reads the stream is '{later[0]}'" if later else "no later layer gives out the stream"
    yield f"'{b.layer}' gives out what is added to the stream, and not the stream: branch '{b.name}' reads the update; {place}"


def _one_channel(main: Prediction, loss: str | losses.Loss) -> Iterable[str]:
    """A softmax over one channel is always 1; the loss may yet be given to the objective, so this is no error."""
    if main.classes == 1 and main.places and main.kind == "class" and losses.show(loss).startswith("cross_entropy"):
        yield "the model gives one channel, over which a softmax is always 1: for two classes use loss='binary'"
