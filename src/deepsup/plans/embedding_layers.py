"""Where the embedding and the feature of an output are, as a plan and its JSON have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deepsup.errors import PlanError
from deepsup.plans import plan_keys as keys
from deepsup.specs import one_of
from deepsup.terms import MAIN

FEATURE = "feature"


@dataclass(frozen=True)
class EmbeddingLayer:
    """The layer that makes the scores of an output, and the neck before it (`last_linear`), in the model or the head.

    `adds`: under which name a tap on what enters them adds a further output to main (`main/feature`) or to a branch:
    `feature`, or `embedding` where its head gives out another `feature`; "" where no term reads it, or the head does it itself.
    """

    output: str
    layer: str
    neck: str = ""
    adds: str = ""

    @property
    def first(self) -> str:
        """The layer whose input is the feature."""
        return self.neck or self.layer

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it."""
        return asdict(self)


EMBEDDING = keys.Record(
    {
        "output": keys.Key(keys.NAME),
        **dict.fromkeys(("layer", "neck"), keys.Key(keys.TEXT)),
        "adds": keys.Key(one_of("", FEATURE, "embedding")),
    },
    EmbeddingLayer,
)


def main_feature(embeddings: Sequence[EmbeddingLayer]) -> tuple[str, ...]:
    """What a tap on main adds to the outputs: `main/feature`, or nothing."""
    return tuple(f"{MAIN}/{e.adds}" for e in embeddings if e.output == MAIN and e.adds)


def check_embeddings(embeddings: Sequence[EmbeddingLayer], extras: Mapping[str, Sequence[str]]) -> None:
    """Raise `PlanError` for an output that is not there or there twice. `extras`: further outputs of heads, by branch."""
    names = [e.output for e in embeddings]
    for e in embeddings:
        known = e.output == MAIN or (e.output in extras and (not e.adds or e.adds in extras[e.output]))
        if not known or names.count(e.output) > 1:
            raise PlanError(
                f"the plan says where the embedding of '{e.output}' is {names.count(e.output)} times, and its branches are "
                f"{', '.join(extras) or 'none'}, each with the outputs of its head. Plan again."
            )
