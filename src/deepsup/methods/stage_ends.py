"""Branches after the stages of a network, where most methods have them."""

from __future__ import annotations

from collections.abc import Mapping

from deepsup.errors import LayerError
from deepsup.heads.continuation import said_stages, stages
from deepsup.methods.method import Places, Scene


def all_stages(scene: Scene) -> list[str]:
    """The ends of the stages, the last one included. Raises `LayerError` where there are no two."""
    said = said_stages(scene.model, scene.seen)
    found = stages(scene.seen) if said is None else said
    if len(found) < 2:
        raise LayerError(
            f"this method places its branches after the stages of a network, and {scene.seen.model} has "
            f"{'none' if not found else 'only one'}: the activations on its way keep their size. Say where: at=['33%', '66%']."
        )
    return found


def inner_stages(scene: Scene) -> Mapping[str, str]:
    """After every stage but the last."""
    return {name: name for name in all_stages(scene)[:-1]}


INNER_STAGES = Places("after every stage but the last", inner_stages)
INNER_STAGES_AND_DEEPEST = Places("after every stage but the last, and a reader of the deepest map", inner_stages)
