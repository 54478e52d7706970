"""The score that counts has a name; here is how each is written, and what it says in a sentence."""

from __future__ import annotations

from typing import Final

from deepsup.reports.formats import known, percent
from deepsup.training.records import ACCURACY

_MEANING: Final = {
    "accuracy": "the share of validation images classified correctly by the network's own output",
    "pixel accuracy": "the share of the pixels that count which the network's own output gives the right class",
    "mean dice": "twice what prediction and truth both give to a class, over the sum of what each of them gives to it, "
    "averaged over the classes",
    "sensitivity": "the share of what is looked for that is found",
    "specificity": "the share of the rest that is left alone",
    "precision": "the share of what is marked that is right",
    "mean iou": "intersection over union (of the pixels that prediction or truth give to a class, the share that both give "
    "to it), averaged over the classes; all validation images are counted together",
    "jaccard": "intersection over union: of the pixels that prediction or truth mark, the share that both mark",
    "dice": "twice the pixels that prediction and truth both mark, over the sum of what each of them marks",
    "f1": "the harmonic mean of precision (how much of what is marked is right) and sensitivity (how much of what is there "
    "is marked)",
    "roc-auc": "the chance that a pixel of what is looked for gets a higher probability than one of the rest; 50 % is guessing",
    "pr-auc": "the precision at every threshold, weighted by the step in sensitivity (average precision)",
}
COUNTS: Final = (
    "true negatives, pixels",
    "false positives, pixels",
    "false negatives, pixels",
    "true positives, pixels",
)


def digits(metric: str) -> int:
    """How many decimals a percent of this score has: accuracy one, the scores of maps two, as their articles print them."""
    return 1 if metric == ACCURACY else 2


def titled(metric: str) -> str:
    """Return the name as a sentence or a heading begins with it: `titled("mean IoU")` is `"Mean IoU"`."""
    return metric[:1].upper() + metric[1:]


def meaning(metric: str) -> str:
    """Return what a score says as a sentence; empty for a name that is not known here."""
    text = _MEANING.get(metric.lower())
    return f"{titled(metric)} is {text}." if text else ""


def value(name: str, number: float) -> str:
    """Write one of the numbers of a table of all scores: shares in percent, a threshold and counts of pixels as they are."""
    if not known(number):
        return percent(number)
    if "threshold" in name.lower():
        return f"{number:.3g}"
    return f"{number:,.0f}" if name in COUNTS else percent(number, digits=2)
