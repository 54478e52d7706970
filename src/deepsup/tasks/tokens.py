"""One label a token of a sequence: the share that is right of those that count."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from deepsup.supervision.objectives import Objective
from deepsup.tasks.classification import Hits, accuracy, add_hits
from deepsup.tasks.outputs import is_labels
from deepsup.tasks.task import Task, Values, metric, register

TOKEN_ACCURACY = metric("token accuracy", "the share of labelled tokens whose class is right", task="tokens", digits=1)(
    accuracy
)


class TokenHits(Hits):
    """How many tokens have a label, and how many of these the class with the highest score is right for."""

    def metrics(self) -> Values:
        return {"token accuracy": accuracy(self)} if self.labelled else {}

    def __add__(self, other: Hits) -> TokenHits:
        return TokenHits(self.right + other.right, self.labelled + other.labelled)

    def cpu(self) -> TokenHits:
        return TokenHits(int(self.right), int(self.labelled))


@register
class Tokens(Task):
    """A class index for every place of a sequence (N, L)."""

    name = "tokens"
    targets = "sequences with a label a token"
    labelled = "a label a token"
    metric = "token accuracy"

    def takes(self, target: Any, kind: str, places: int | None) -> bool:
        sequences = is_labels(target) and target.ndim == 2 and (target.shape[1] > 1 or places == 1)
        return sequences and kind not in ("labels", "values") and places in (None, 1)

    def add(self, counts: dict[str, Any], found: dict[str, Tensor], target: Any, objective: Objective) -> None:
        shift = int(objective.option("shift", 0))
        if shift:
            found = {name: scores[:, :, :-shift] for name, scores in found.items()}
            target = target[:, shift:]
        add_hits(counts, found, target, objective, make=TokenHits)
