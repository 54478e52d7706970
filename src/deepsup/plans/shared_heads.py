"""Heads that are made once for several branches: `shared(pool)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from deepsup import heads
from deepsup.errors import HeadError
from deepsup.features import Feature
from deepsup.plans.plan import Branch


def refuse_one_module(chosen: Mapping[str, heads.HeadLike]) -> None:
    """Raise `HeadError` where two branches are given one and the same module."""
    owner: dict[int, str] = {}
    for name, head in chosen.items():
        if isinstance(head, nn.Module) and owner.setdefault(id(head), name) != name:
            raise HeadError(
                f"branches '{owner[id(head)]}' and '{name}' would share one head module. Name a head that they share, "
                "head='shared(pool)', pass a function of (feature, classes) that makes a new one for each, or "
                "head={'BRANCH': module, ...}."
            )


def first_of(branches: Iterable[Branch], head: heads.HeadLike) -> Branch | None:
    """The branch for which a shared head is made: the first that says it."""
    if heads.made_once(head) is None:
        return None
    return next((b for b in branches if b.head == head), None)


def check_alike(first: Branch, other: str, feature: Feature) -> None:
    """Raise `HeadError` where the head made for a branch cannot be that of branch `other`, which reads `feature`."""
    if (first.feature.channels, first.feature.layout) != (feature.channels, feature.layout):
        one, two = (f"{f.channels} channels in layout {f.layout}" for f in (first.feature, feature))
        raise HeadError(
            f"branches '{first.name}' and '{other}' would share one head, {heads.show(first.head)}, but read {one} and {two}. "
            f"Give '{other}' a head of its own: head={{'{other}': '{heads.made_once(first.head)}'}}."
        )
