"""How good a label map is: from a matrix of counts (C, C), rows the truth, columns the prediction.

>>> vessels = [[3882130, 78364], [122855, 454794]]            # [[TN, FP], [FN, TP]]
>>> round(jaccard(vessels), 6), round(f1(vessels), 6)
(0.69327, 0.818853)

Counts add up over batches and processes, so that nothing else is kept of a data set. Metrics are fractions, 1 is perfect;
None is one that nothing was counted for, such as the sensitivity where there is no positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from deepsup.errors import ClassCountError, ConfigError
from deepsup.tasks.task import METRICS, Counts, Values, metric, metrics_of

Matrix: TypeAlias = Tensor | Sequence[Sequence[int]]
"""Counts (C, C): at [t][p] the places of class t that were taken for class p."""

THRESHOLD = 0.5
"""A probability of at least this much is the positive class of two; F1 and its kin hold for this threshold alone."""
BINS = 65_536
RANGE = 14.5  # of asinh(100 logit): all logits between -9,900 and 9,900 are told apart

MEAN_IOU = "mean IoU"
AREAS = ("ROC-AUC", "PR-AUC")  # from how logits are spread, not from the matrix

_metric = partial(metric, task="segmentation")


def iou(matrix: Matrix) -> list[float | None]:
    """Intersection over union of each class, TP / (TP + FP + FN); None for one in neither truth nor prediction."""
    counts = _counts(matrix)
    right = counts.diagonal()
    return [_ratio(hit, whole) for hit, whole in zip(right, counts.sum(0) + counts.sum(1) - right, strict=True)]


@_metric(
    MEAN_IOU,
    "intersection over union (of the pixels that prediction or truth give to a class, the share that both give to it), "
    "averaged over the classes; all validation images are counted together",
)
def mean_iou(matrix: Matrix) -> float | None:
    """The mean of `iou` over the classes that occur in truth or prediction; the others do not count."""
    return _mean(iou(matrix))


@_metric("pixel accuracy", "the share of the pixels that count which the network's own output gives the right class")
def pixel_accuracy(matrix: Matrix) -> float | None:
    """The share of labelled places whose class is right."""
    counts = _counts(matrix)
    return _ratio(counts.diagonal().sum(), counts.sum())


def dice(matrix: Matrix) -> list[float | None]:
    """Dice of each class, 2 TP / (2 TP + FP + FN); None for one in neither truth nor prediction."""
    counts = _counts(matrix)
    right = 2 * counts.diagonal()
    return [_ratio(hit, whole) for hit, whole in zip(right, counts.sum(0) + counts.sum(1), strict=True)]


@_metric(
    "mean Dice",
    "twice what prediction and truth both give to a class, over the sum of what each of them gives to it, averaged over "
    "the classes",
)
def mean_dice(matrix: Matrix) -> float | None:
    """The mean of `dice` over the classes that occur in truth or prediction; the others do not count."""
    return _mean(dice(matrix))


@_metric(
    "Dice", "twice the pixels that prediction and truth both mark, over the sum of what each of them marks", of_two=True
)
@_metric(
    "F1",
    "the harmonic mean of precision (how much of what is marked is right) and sensitivity (how much of what is there is "
    "marked)",
    of_two=True,
)
def f1(matrix: Matrix) -> float | None:
    """Of two classes, 2 TP / (2 TP + FP + FN), the Dice of the positive class."""
    (_, false), (missed, hit) = _two(matrix)
    return _ratio(2 * hit, 2 * hit + false + missed)


@_metric(
    "Jaccard",
    "intersection over union: of the pixels that prediction or truth mark, the share that both mark",
    of_two=True,
)
def jaccard(matrix: Matrix) -> float | None:
    """Of two classes, TP / (TP + FP + FN), the intersection over union of the positive class.

    The "Jaccard" that the retina U-Net (orobix/retina-unet) and what follows it publish is their accuracy: an old
    scikit-learn counted both classes of binary labels alike.
    """
    (_, false), (missed, hit) = _two(matrix)
    return _ratio(hit, hit + false + missed)


@_metric("sensitivity", "the share of what is looked for that is found", of_two=True)
def sensitivity(matrix: Matrix) -> float | None:
    """Of two classes, TP / (TP + FN): the share of the positives that is found (recall)."""
    (_, _), (missed, hit) = _two(matrix)
    return _ratio(hit, hit + missed)


@_metric("specificity", "the share of the rest that is left alone", of_two=True)
def specificity(matrix: Matrix) -> float | None:
    """Of two classes, TN / (TN + FP): the share of the negatives that is left alone."""
    (rejected, false), (_, _) = _two(matrix)
    return _ratio(rejected, rejected + false)


@_metric("precision", "the share of what is marked that is right", of_two=True)
def precision(matrix: Matrix) -> float | None:
    """Of two classes, TP / (TP + FP): the share of what was called positive that is."""
    (_, false), (_, hit) = _two(matrix)
    return _ratio(hit, hit + false)


@_metric(
    "ROC-AUC",
    "the chance that a pixel of what is looked for gets a higher probability than one of the rest; 50 % is guessing",
    of_two=True,
)
def roc_auc(curve: Tensor) -> float | None:
    """Area under the receiver operating characteristic from counts (2, bins) of negatives and positives by logit.

    The chance that a positive has the higher logit of a pair; within a bin it is a half. None without both classes.
    """
    negative, positive = curve.to("cpu", torch.float64)
    below = negative.cumsum(0) - negative
    return _ratio((positive * (below + negative / 2)).sum(), positive.sum() * negative.sum())


@_metric(
    "PR-AUC", "the precision at every threshold, weighted by the step in sensitivity (average precision)", of_two=True
)
def average_precision(curve: Tensor) -> float | None:
    """Average precision, the sum of precision times the step in recall, from counts (2, bins) as in `roc_auc`.

    This is what `PR-AUC` means here, as in scikit-learn: from one threshold to the next the precision of the lower one
    holds. The area by trapezoids joins them by straight lines, which no threshold reaches (Davis & Goadrich 2006). None
    without a positive.
    """
    negative, positive = curve.to("cpu", torch.float64).flip(1)  # from the highest logit on
    right, wrong = positive.cumsum(0), negative.cumsum(0)
    return _ratio((positive * right / (right + wrong).clamp(min=1)).sum(), positive.sum())


class Confusion(Counts):
    """What is counted of one output's label maps: the matrix and, of two classes, how their logits are spread.

    Memory stays the same however many maps are added, and adding never waits for the device. Logits are counted in 65,536
    bins, even in asinh(100 logit): near 0 a bin is 0.000004 wide, further out 0.04 % of the logit, so that the area under
    the ROC curve agrees with the exact one to 1e-5, the average precision to 1e-4.
    """

    def __init__(self, classes: int, device: torch.device | str | None = None) -> None:
        self.classes = classes
        self._pairs = torch.zeros(classes**2 + 2, dtype=torch.int64, device=device)
        self._curve = torch.zeros(2 * BINS + 1 if classes == 2 else 0, dtype=torch.int64, device=device)

    def add(self, prediction: Tensor, target: Tensor, *, ignore: int = -100, logit: Tensor | None = None) -> None:
        """Count predicted against true classes, integers of one shape; true ones below 0 or `ignore` do not count.

        `logit` is, of two classes and in the same shape, how strongly each place is taken for the positive one.
        """
        target = target.long()  # a product of narrower ones would wrap around
        counts = (target >= 0) & (target != ignore)
        known = counts & (target < self.classes)
        strange = torch.where(counts, self.classes**2 + 1, self.classes**2)  # the last two: unknown labels, and void
        pairs = torch.where(known, target * self.classes + prediction, strange)
        self._pairs.scatter_add_(0, pairs.flatten(), torch.ones_like(pairs).flatten())
        if logit is not None and len(self._curve):
            bins = bins_of(logit)
            places = torch.where(known, target * BINS + bins, 2 * BINS)
            self._curve.scatter_add_(0, places.flatten(), torch.ones_like(places).flatten())

    @property
    def matrix(self) -> Tensor:
        """The counts (C, C), int64. Raises `ClassCountError` when a label had no class."""
        *_, strange = self._pairs.tolist()
        if strange:
            raise ClassCountError(
                f"{strange} labelled places have a class of {self.classes} or more, but the output scores {self.classes} "
                "classes (0 and up). Give the model as many classes as the data has, or label what is void -100."
            )
        return self._pairs[: self.classes**2].view(self.classes, self.classes)

    @property
    def curve(self) -> Tensor | None:
        """Counts (2, 65536) of negatives and positives by logit; None unless there are two classes."""
        return self._curve[:-1].view(2, BINS) if self.classes == 2 else None

    def cpu(self) -> Confusion:
        """The counts on the CPU, to be sent to another process."""
        self._pairs, self._curve = self._pairs.cpu(), self._curve.cpu()
        return self

    def __add__(self, other: Confusion) -> Confusion:
        found = Confusion(self.classes)
        found._pairs, found._curve = self._pairs + other._pairs, self._curve + other._curve
        return found

    def metrics(self) -> Values:
        """Every metric by name; empty where no place is labelled."""
        matrix = self.matrix
        return summary(matrix, self.curve) if matrix.sum() else {}


def summary(matrix: Matrix, curve: Tensor | None = None) -> Values:
    """Every metric of a matrix by name; of two classes with the areas under the curves where their counts are given."""
    found: Values = {}
    for name in metrics_of("segmentation", len(matrix)):
        if name in AREAS and curve is None:
            continue
        found[name] = METRICS["segmentation", name].function(curve if name in AREAS else matrix)
    return found


def bins_of(logit: Tensor) -> Tensor:
    """The bin of each logit, from 0 to `BINS` - 1; what is no number lies in the middle."""
    wide = logit.float().nan_to_num(0.0)
    even = wide.sign() * (100 * wide.abs()).asinh()  # some devices lose digits of its negative half
    return ((even.clamp(-RANGE, RANGE) + RANGE) * (BINS / (2 * RANGE))).long().clamp(max=BINS - 1)


def _counts(matrix: Matrix) -> Tensor:
    counts = torch.as_tensor(matrix).to("cpu", torch.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ConfigError(f"a matrix of counts is square, truth by prediction; found the shape {tuple(counts.shape)}.")
    return counts


def _two(matrix: Matrix) -> Tensor:
    counts = _counts(matrix)
    if len(counts) != 2:
        raise ConfigError(
            f"this metric is of two classes, from [[TN, FP], [FN, TP]]; found {len(counts)} classes. For more, see mean_iou."
        )
    return counts


def _ratio(part: Tensor, whole: Tensor) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
