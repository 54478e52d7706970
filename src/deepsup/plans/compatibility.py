"""Whether heads, losses and terms between outputs fit one another: asked when a plan is made, not at the first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from deepsup import heads, losses
from deepsup.errors import ClassCountError, HeadError
from deepsup.heads.cost import Price
from deepsup.plans.plan import Branch
from deepsup.predictions import Prediction
from deepsup.terms import ENSEMBLE, GATE, INPUT, PREVIOUS, TARGET, Edge

Shapes = Mapping[str, tuple[int, ...]]  # of outputs by name, batch included: main, branches, BRANCH/feature

LIKE_MAIN = (ENSEMBLE, PREVIOUS)  # outputs that no model returns, of main's shape


def same_scores(shape: tuple[int, ...], main: tuple[int, ...], *, resizes: bool = True) -> bool:
    """Whether scores can meet the target of `main`: as many classes, and as many places unless a loss `resizes` maps."""
    if resizes and len(main) > 2:
        return len(shape) == len(main) and shape[1] == main[1]
    return shape[1:] == main[1:]


def check_output(
    name: str,
    layer: str,
    *,
    head: heads.HeadLike,
    loss: str | losses.Loss,
    shape: tuple[int, ...],
    main: tuple[int, ...],
    kind: str,
) -> None:
    """Raise `HeadError` or `ClassCountError` where a branch with a named loss on labels cannot meet main's target."""
    if heads.describe(head).scores and losses.describe(loss).scores:
        losses.check_kind(loss, kind, output=name)
    if not isinstance(loss, str) or not losses.describe(loss).scores:
        return
    if not heads.describe(head).scores:
        raise HeadError(
            f"the head of branch '{name}' ({heads.show(head)}) gives no class scores, which its loss {loss} needs. Choose a "
            "head that does, or branch_loss='none' and a term of your own."
        )
    if not same_scores(shape, main, resizes=losses.describe(loss).resizes):
        raise (ClassCountError if layer == INPUT else HeadError)(  # a peer is a model, and no head
            f"the head of branch '{name}' predicts {shape[1:]} a sample, the model itself {main[1:]}, and both meet one "
            f"target. {_remedy(shape, main, loss)}"
        )
    losses.check_channels(loss, shape[1])


def _remedy(shape: tuple[int, ...], main: tuple[int, ...], loss: str) -> str:
    if len(main) == 2:
        return f"Give the branch a head with output {main[1:]}, or a branch_loss= of its own."
    if same_scores(shape, main):
        able = ", ".join(name for name in losses.LOSSES if losses.describe(name).resizes)
        return f"Loss {loss} does not bring maps of two sizes together; these do: {able}."
    if len(main) == 3:
        return "Give the branch a head that gives each place as many classes: tokenwise; or a branch_loss= of its own."
    return "Give the branch a head that gives a map of as many classes, of any size: fcn, c1, conv1x1; or its own branch_loss=."


def zeros(
    asked: Mapping[str, bool],
    chosen: Mapping[str, heads.HeadLike],
    loss: Mapping[str, str | losses.Loss],
    *,
    by_name: bool,
) -> dict[str, bool]:
    """Of each branch, whether its head starts at zero. Raises `HeadError` for an embedding that was asked for `by_name`.

    An embedding of zero stays there, because a loss that normalises it has a gradient of exactly zero; asked of all
    branches, those that give one are left alone.
    """
    fits = {n: heads.describe(chosen[n]).scores and losses.describe(loss[n]).views == 1 for n in asked}
    for name in (n for n, zero in asked.items() if by_name and zero and not fits[n]):
        raise HeadError(
            f"zero_heads= names branch '{name}', whose head ({heads.show(chosen[name])}) gives no class scores: an embedding "
            "of zero would never move. Leave the branch out of zero_heads."
        )
    return {n: zero and fits[n] for n, zero in asked.items()}


def can_be_zero(name: str, zero: bool, cost: Price, *, by_name: bool) -> bool:
    """Whether a head that is to start at zero does: not where its last layer is the model's own, which is refused `by_name`."""
    if zero and cost.borrowed and by_name:
        raise HeadError(
            f"zero_heads= names branch '{name}', the last layer of whose head is the model's own: the model would forget what "
            "it has learned. Leave the branch out of zero_heads."
        )
    return zero and not cost.borrowed


def check_edges(edges: Iterable[Edge], shapes: Shapes, predictions: Mapping[str, Prediction | None]) -> None:
    """Raise `HeadError` where a named loss between two outputs (kl, hint) would compare two shapes, or cannot read them."""
    for edge in edges:
        known = predictions.get("main" if edge.source in LIKE_MAIN else edge.source)
        if known is not None and edge.target != TARGET:
            losses.check_kind(edge.loss, known.kind, output=edge.name)
        if edge.target == TARGET or not isinstance(edge.loss, str) or not losses.describe(edge.loss).teacher:
            continue
        source, target = (shapes.get("main" if n in LIKE_MAIN else n, ())[1:] for n in (edge.source, edge.target))
        if source != target:
            raise HeadError(
                f"'{edge.source}' learns from '{edge.target}' by {edge.loss}, which compares two outputs of one shape; found "
                f"{source} and {target} a sample. Give the branch a head whose output has the teacher's shape."
            )


def weighed(branches: Sequence[Branch], edges: Iterable[Edge], shapes: Shapes) -> list[Branch]:
    """The branches, the one called `gate` not counted among the predictions where it weighs them in an ensemble.

    Raises `HeadError` for a gate that is none, or that has not one weight for each output that predicts.
    """
    gate = next((b for b in branches if b.name == GATE), None)
    if gate is None or not any(ENSEMBLE in (e.source, e.target) for e in edges):
        return list(branches)
    members = ["main", *(b.name for b in branches if b.predicts and b is not gate)]
    scores = isinstance(gate.head, str) and heads.describe(gate.head).scores
    if scores or shapes[GATE][1:] != (len(members),):
        found = "x".join(map(str, shapes[GATE][1:]))
        raise HeadError(
            f"the branch 'gate' weighs {len(members)} outputs in the ensemble ({', '.join(members)}), but its head "
            f"({heads.show(gate.head)}) gives {found} {'class scores' if scores else 'weights'} a sample. Give it the head "
            f"'gate(outputs={len(members)})', or a module that returns as many weights; other branches a head with main's output."
        )
    return [replace(b, predicts=b.predicts and b is not gate) for b in branches]
