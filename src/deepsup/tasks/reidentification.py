"""Who is on the image: the task whose validation is a search of queries in a gallery, scored as a whole (`retrieval`)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from deepsup import ownership
from deepsup.errors import DatasetError
from deepsup.predictions import Word
from deepsup.supervision.objectives import Objective
from deepsup.tasks import image_values
from deepsup.tasks.classification import ANSWERS
from deepsup.tasks.retrieval import RetrievalScores
from deepsup.tasks.task import Counts, Task, Values, metric, metrics_of, register

RE_IDENTIFICATION, MEAN_AP = "re-identification", "mAP"

_SAYS = {
    MEAN_AP: "the mean over the queries of the average precision with which their matches rank",
    "mAP (trapezoid)": "the same by the trapezoid rule, as Market-1501's own code counts it; never higher",
    **{
        f"rank-{k}": f"the share of queries with a match {'first' if k == 1 else f'among the first {k}'}"
        for k in (1, 5, 10, 20)
    },
    "mINP": "the mean over the queries of how many matches there are per image that is looked at until the last one",
}
for _name, _told in _SAYS.items():
    metric(_name, _told, task=RE_IDENTIFICATION)(RetrievalScores.metrics)


class Rankings(Counts):
    """Where the matches of every query rank by one output; of processes, each with queries of its own, they add up."""

    def __init__(self, scores: RetrievalScores) -> None:
        self.scores = scores

    def __add__(self, other: Any) -> Rankings:
        return Rankings(self.scores + other.scores)

    def cpu(self) -> Rankings:
        return self

    def metrics(self) -> Values:
        found = self.scores.metrics()
        return {name: found[name] for name in metrics_of(RE_IDENTIFICATION, 0)}


@register
class ReIdentification(Task):
    """Identities of people or vehicles: classes in training, and in validation others, which are searched for."""

    name = RE_IDENTIFICATION
    targets = "identities"
    labelled = "an identity an image"
    metric = MEAN_AP
    word = Word("class", None, "cross_entropy")  # of training
    options = frozenset({"views", "per_identity", "spread"})

    def takes(self, target: Any, kind: str, places: int | None) -> bool:
        """A target does not tell: identities of training are classes like any other. The split does."""
        return False

    def add(self, counts: dict[str, Any], found: dict[str, Tensor], target: Any, objective: Objective) -> None:
        """Raise `DatasetError`: no batch can be scored without the gallery."""
        raise DatasetError(
            "a search is scored as a whole, over a split of queries and gallery; evaluate the split, not batches of it."
        )

    def record(self, counts: Mapping[str, Rankings], metrics: Mapping[str, Values]) -> dict[str, Any]:
        """All metrics, how many queries there are, and how many without a match."""
        if not counts:
            return {}
        found = next(iter(counts.values())).scores.metrics()
        return {"scores": metrics, "queries": found["queries"], "without match": found["without match"]}


def keep_answers(
    folder: Path,
    scores: RetrievalScores,
    identities: Tensor,  # (Q,), of the queries
    metric: str,
) -> None:
    """Write the average precision of every query, null without a match, as `answers.json`, and what each identity adds to the
    metric (`image_values`): two runs are set side by side by it. Queries of one identity resemble one another; identities are
    what another test set would draw anew.
    """
    told = [None if math.isnan(one) else one for one in scores.precision.tolist()]
    ownership.write_text(folder, ANSWERS, json.dumps({"format": 1, "scores": told}) + "\n")
    searched = sorted(set(identities[scores.matches > 0].tolist()))
    image_values.keep(folder, [Rankings(scores.of(identities == one)) for one in searched], metric)
