"""Heads that earlier versions built otherwise from the same text, known again by how large they were."""

from __future__ import annotations

import torch

from deepsup.features import Feature
from deepsup.heads.build_head import HeadLike, build, read
from deepsup.specs import show_call

ROUNDED_DOWN = {"cnds"}  # whose pool does not any more, as the released one never did


def as_written(head: HeadLike, feature: Feature, classes: int, params: int) -> HeadLike:
    """The head that has `params` parameters where today's of this text has others and yesterday's had them; else `head`."""
    if not isinstance(head, str) or head.partition("(")[0] not in ROUNDED_DOWN:
        return head
    name, options = read(head)
    older = show_call(name, {**options, "ceil": False})
    said = "ceil" in options or _count(head, feature, classes) == params
    return older if not said and _count(older, feature, classes) == params else head


def _count(head: str, feature: Feature, classes: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(head, feature, classes).parameters())
