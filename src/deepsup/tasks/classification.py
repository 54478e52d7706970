"""One label an image: the share that is right, and new images as rows of a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepsup import documents, losses, ownership
from deepsup.errors import ConfigError
from deepsup.predictions import Word
from deepsup.supervision.objectives import Objective
from deepsup.tasks.outputs import ignored, is_labels, scores_of, with_ensemble, without_channel
from deepsup.tasks.prediction_tables import Rows
from deepsup.tasks.task import Counts, Said, Task, Values, metric, register

ACCURACY = "accuracy"
ANSWERS, PROBABILITIES = "answers.json", "probabilities.csv"


class Hits(Counts):
    """How many samples have a label, and how many of these the class with the highest score is right for."""

    def __init__(self, right: Tensor | int = 0, labelled: Tensor | int = 0) -> None:
        self.right, self.labelled = right, labelled

    def add(
        self,
        scores: Tensor,  # (N, C, ...), raw
        target: Tensor,  # (N, ...), below 0 where there is no label
        *,
        ignore: int = losses.IGNORE,
    ) -> None:
        target = target.long()  # -100 is 156 in a byte
        known = (target >= 0) & (target != ignore)
        said = most_likely(scores)
        self.right = self.right + ((said == target) & known).sum()
        self.labelled = self.labelled + known.sum()

    def __add__(self, other: Hits) -> Hits:
        return Hits(self.right + other.right, self.labelled + other.labelled)

    def cpu(self) -> Hits:
        return Hits(int(self.right), int(self.labelled))

    def metrics(self) -> Values:
        return {ACCURACY: accuracy(self)} if self.labelled else {}


def most_likely(scores: Tensor) -> Tensor:
    """The class of each place of scores (N, C, ...); one logit tells two apart, at a probability of a half."""
    return scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] >= 0).long()


@metric(
    ACCURACY,
    "the share of validation images classified correctly by the network's own output",
    task="classification",
    digits=1,
)
def accuracy(hits: Hits) -> float:
    """The share of labelled samples whose class is right."""
    return float(hits.right / hits.labelled)


class Table(Rows):
    """`predictions.csv`: a row an image, the class by each output and its probability; `probabilities.csv`: those of all."""

    def write(self, name: str, image: Path, original: Tensor, found: Mapping[str, Tensor]) -> Said:
        said, every = {}, self.said_of(found)
        for output, sure in every.items():
            likely, label = sure.max(0)
            said[output] = (self.classes[int(label)], float(likely))
        cells = {output: {"class": label, "probability": share} for output, (label, share) in said.items()}
        shares = {output: dict(zip(self.classes, sure.tolist(), strict=True)) for output, sure in every.items()}
        return Said(image, (self.append(image, cells), self.append(image, shares, file=PROBABILITIES)), said)


@register
class Classification(Task):
    """One class index a sample."""

    name = "classification"
    targets = "images with one label"
    labelled = "one label an image"
    metric = ACCURACY
    word = Word("class", None, "cross_entropy")
    options = frozenset({"views", "overlap", "balanced"})
    writer = Table

    def takes(self, target: Any, kind: str, places: int | None) -> bool:
        one = is_labels(target) and (target.ndim < 2 or (target.ndim == 2 and target.shape[1] == 1))
        return one and kind != "values" and places in (None, 0)

    def add(self, counts: dict[str, Hits], found: dict[str, Tensor], target: Any, objective: Objective) -> None:
        add_hits(counts, found, target, objective)

    def save(
        self, folder: Path, split: Any, objective: Objective, run: Callable[[Tensor], Any], *, metric: str
    ) -> None:
        """Which validation images the main output is right for, as `answers.json`: two runs can be set side by side by them."""
        right: list[str] = []
        for x, y in split.batches(64, seed=0, epoch=0, shuffle=False):
            scores = scores_of(run(x), objective)["main"]
            if scores.ndim != 2 or y.ndim != 1:  # several answers an image
                return
            right += ["1" if one else "0" for one in (most_likely(scores).cpu() == y.cpu()).tolist()]
        text = json.dumps({"format": 1, "right": "".join(right)}) + "\n"
        ownership.write_text(folder, ANSWERS, text)


def add_hits(
    counts: dict[str, Hits],
    found: dict[str, Tensor],
    target: Any,
    objective: Objective,
    *,
    make: type[Hits] = Hits,
) -> None:
    """Count the right ones of outputs (N, C, ...) against class indices (N, ...); other targets are not counted."""
    if not is_labels(target):
        return
    for name, scores in with_ensemble(found, objective).items():
        labels = without_channel(target, scores.ndim - 2)
        if scores.ndim == labels.ndim + 1:
            counts.setdefault(name, make()).add(scores, labels, ignore=ignored(objective))


def answers(
    folder: Path,
) -> Tensor | None:  # (N), bool
    """Which validation images a finished run's main output is right for; None where that was not kept.

    Raises `ConfigError` where the file is damaged.
    """
    if not (folder / ANSWERS).exists():
        return None
    try:
        right = documents.parsed(documents.content(folder / ANSWERS))["right"]
        if isinstance(right, str) and set(right) <= set("01"):
            return torch.tensor([one == "1" for one in right])
    except (ValueError, TypeError, KeyError):
        pass
    raise ConfigError(f"{folder / ANSWERS} is damaged. Restore it, or remove it: the verdict goes without.")
