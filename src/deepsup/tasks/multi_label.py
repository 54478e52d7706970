"""Several labels a sample, or a place: the average precision of each, F1 and accuracy at a probability of a half.

Labels are numbers from 0 to 1, above a half if the label is there; NaN and the loss's `ignore_index` do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deepsup.losses.full_size import enlarged
from deepsup.losses.labels import is_multi_hot
from deepsup.predictions import Word
from deepsup.supervision.exits import average
from deepsup.supervision.objectives import Objective
from deepsup.tasks.label_map_metrics import BINS, average_precision, bins_of
from deepsup.tasks.outputs import ignored, loss_of
from deepsup.tasks.prediction_tables import NumberRows
from deepsup.tasks.task import Counts, Task, Values, metric, register
from deepsup.terms import ENSEMBLE

MEAN_AP, LABEL_F1, LABEL_ACCURACY = "mAP", "label F1", "label accuracy"


@metric(MEAN_AP, "the mean over the labels of their average precision", task="labels")
def mean_average_precision(scores: Tensor, truth: Tensor, known: Tensor) -> float | None:
    """Of scores, truth and what counts, (M, C) each: the mean over labels that occur of sum_k (R_k - R_{k-1}) P_k, where
    equal scores are one step (as scikit-learn counts it); None where no label occurs.
    """
    found = [_average_precision(s[k], t[k]) for s, t, k in zip(scores.T, truth.T, known.T, strict=True)]
    there = [ap for ap in found if ap is not None]
    return sum(there) / len(there) if there else None


def _average_precision(scores: Tensor, truth: Tensor) -> float | None:
    if not bool(truth.any()):
        return None
    order = scores.argsort(descending=True, stable=True)
    ranked, right = scores[order], truth[order].double().cumsum(0)
    last = torch.cat([ranked[1:] != ranked[:-1], torch.ones(1, dtype=torch.bool)])  # of equal scores
    right, seen = right[last], torch.arange(1, len(ranked) + 1, dtype=torch.float64)[last]
    gained = torch.diff(right, prepend=right.new_zeros(1))
    return float((gained * right / seen).sum() / right[-1])


@metric(LABEL_F1, "the mean over the labels of 2 TP / (2 TP + FP + FN) at a probability of 0.5", task="labels")
def label_f1(cells: Tensor) -> float | None:
    """Of counts (C, 4) of true negatives, false positives, false negatives and true positives; labels that neither occur nor
    are said are left out.
    """
    _, fp, fn, tp = cells.double().T
    whole = 2 * tp + fp + fn
    return float((2 * tp[whole > 0] / whole[whole > 0]).mean()) if bool((whole > 0).any()) else None


@metric(LABEL_ACCURACY, "the share of all labels that are right at a probability of 0.5", task="labels")
def label_accuracy(cells: Tensor) -> float | None:
    """Of counts (C, 4) as in `label_f1`."""
    whole = cells.sum()
    return float((cells[:, 0] + cells[:, 3]).sum() / whole) if whole else None


class LabelCounts(Counts):
    """Of every label how often it was there and was said, and what average precision needs: of vectors all scores, of maps, which
    have too many, counts (C, 2, bins) by score as `label_map_metrics.Confusion` has them: scores that differ by 0.04 % are ties.
    """

    def __init__(
        self, cells: Tensor | None = None, kept: tuple[Tensor, ...] = (), curves: Tensor | None = None
    ) -> None:
        self.cells, self.kept, self.curves = cells, kept, curves

    def add(
        self,
        scores: Tensor,  # (N, C, *places), raw
        truth: Tensor,  # (N, C, *places), bool
        known: Tensor,  # (N, C, *places), bool
    ) -> None:
        said = scores >= 0
        code = torch.where(known, 2 * truth.long() + said.long(), 4).movedim(1, 0).flatten(1)
        cells = torch.stack([(code == value).sum(1) for value in range(4)], 1)
        self.cells = cells if self.cells is None else self.cells + cells
        if scores.ndim == 2:
            self.kept += (torch.stack([scores.double(), truth.double(), known.double()]).cpu(),)
        else:
            curves = _curves(*(t.movedim(1, 0).flatten(1) for t in (scores, truth, known)))
            self.curves = curves if self.curves is None else self.curves + curves

    def __add__(self, other: LabelCounts) -> LabelCounts:
        cells, curves = _sum(self.cells, other.cells), _sum(self.curves, other.curves)
        return LabelCounts(cells, self.kept + other.kept, curves)

    def cpu(self) -> LabelCounts:
        cells, curves = (None if t is None else t.cpu() for t in (self.cells, self.curves))
        return LabelCounts(cells, self.kept, curves)

    def metrics(self) -> Values:
        if self.cells is None or not int(self.cells.sum()):
            return {}
        if self.curves is not None:
            each = [p for curve in self.curves if (p := average_precision(curve)) is not None]
            precision = sum(each) / len(each) if each else None
        else:
            scores, truth, known = torch.cat(self.kept, 1)
            precision = mean_average_precision(scores, truth.bool(), known.bool())
        return {MEAN_AP: precision, LABEL_F1: label_f1(self.cells), LABEL_ACCURACY: label_accuracy(self.cells)}


def _curves(
    scores: Tensor,  # (C, M), raw
    truth: Tensor,  # (C, M), bool
    known: Tensor,  # (C, M), bool
) -> Tensor:
    """Counts (C, 2, bins) of negatives and positives by score."""
    labels = torch.arange(len(scores), device=scores.device)[:, None]
    places = torch.where(known, (2 * labels + truth.long()) * BINS + bins_of(scores), 2 * len(scores) * BINS)
    found = torch.bincount(places.flatten(), minlength=2 * len(scores) * BINS + 1)
    return found[:-1].view(len(scores), 2, BINS)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other


@register
class Labels(Task):
    """Any of C labels a sample (N, C), or a place (N, C, *places)."""

    name = "labels"
    targets = "images with several labels"
    labelled = "any of several labels an image"
    metric = MEAN_AP
    word = Word("labels", None, "binary")
    writer = NumberRows

    def takes(self, target: Any, kind: str, places: int | None) -> bool:
        if kind != "labels" or not isinstance(target, Tensor):
            return False
        if places is None:
            return target.is_floating_point() or target.dtype == torch.bool or target.ndim == 2
        lone = target.is_floating_point() and target.ndim == places + 1
        return lone or (target.ndim == places + 2 and (target.shape[1] > 1 or target.is_floating_point()))

    def record(self, counts: Mapping[str, LabelCounts], metrics: Mapping[str, Values]) -> dict[str, Any]:
        """All metrics."""
        return {"scores": metrics} if metrics else {}

    def add(self, counts: dict[str, LabelCounts], found: dict[str, Tensor], target: Any, objective: Objective) -> None:
        target = target.unsqueeze(1) if target.ndim == found["main"].ndim - 1 else target
        if not is_multi_hot(found["main"], target):
            return
        void = ignored(objective)
        known = (
            (target.isnan() | (target == void)).logical_not() if target.is_floating_point() else target.long() != void
        )
        wide = {name: enlarged(s, target.shape[2:], loss_of(name, objective)) for name, s in found.items()}
        if len(wide) > 1 and ENSEMBLE not in wide and len({s.shape for s in wide.values()}) == 1:
            kinds = ["labels"] * len(wide)
            wide[ENSEMBLE] = average([s.float() for s in wide.values()], kinds).logit()
        for name, scores in wide.items():
            counts.setdefault(name, LabelCounts()).add(scores, target > 0.5, known)
