"""Losses one sample and one place at a time, in Python floats: what the fast ones are held against."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from torch import Tensor


def number(value: Tensor) -> float:
    return float(value.detach())


def scores_at(prediction: Tensor) -> dict[tuple[int, ...], list[float]]:
    """The scores of every sample and place, in Python floats."""
    places = itertools.product(range(prediction.shape[0]), *map(range, prediction.shape[2:]))
    return {(n, *at): [float(prediction[(n, c, *at)]) for c in range(prediction.shape[1])] for n, *at in places}


def log_softmax(scores: list[float]) -> list[float]:
    norm = math.log(math.fsum(math.exp(s) for s in scores))
    return [s - norm for s in scores]


def slow_cross_entropy(prediction: Tensor, target: Tensor, *, smoothing: float = 0.0, ignore: int = -100) -> float:
    """One sample and one place at a time, in Python floats."""
    terms: list[float] = []
    for at, scores in scores_at(prediction).items():
        if target.is_floating_point():
            truth = [float(target[(at[0], c, *at[1:])]) for c in range(len(scores))]
        elif int(target[at]) != ignore:
            truth = [float(c == int(target[at])) for c in range(len(scores))]
        else:
            continue
        truth = [(1 - smoothing) * t + smoothing / len(scores) for t in truth]
        terms.append(-sum(t * s for t, s in zip(truth, log_softmax(scores), strict=True)))
    return math.fsum(terms) / len(terms)


def slow_squared_hinge(prediction: Tensor, target: Tensor, *, form: str) -> float:
    terms: list[float] = []
    for at, scores in scores_at(prediction).items():
        y = int(target[at])
        if y == -100:
            continue
        if form == "multiclass":
            terms.append(sum(max(0.0, 1 - (scores[y] - s)) ** 2 for k, s in enumerate(scores) if k != y))
        else:
            terms.append(sum(max(0.0, 1 - (1 if k == y else -1) * s) ** 2 for k, s in enumerate(scores)))
    return math.fsum(terms) / len(terms)


def slow_kl(prediction: Tensor, teacher: Tensor, *, temperature: float, squared: bool) -> float:
    terms: list[float] = []
    for student, truth in zip(scores_at(prediction).values(), scores_at(teacher).values(), strict=True):
        log_q = log_softmax([s / temperature for s in student])
        log_p = log_softmax([s / temperature for s in truth])
        terms.append(sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)))
    return math.fsum(terms) / len(terms) * (temperature**2 if squared else 1)


def slow_contrast(embedding: Tensor, positives: Callable[[int], list[int]], temperature: float) -> float:
    """Khosla et al. 2020, eq. 2, with given positives of each anchor; the mean over anchors."""
    z = [[float(v) / math.sqrt(sum(float(w) ** 2 for w in row)) for v in row] for row in embedding]
    total = 0.0
    for i, anchor in enumerate(z):
        others = {
            a: sum(v * w for v, w in zip(anchor, z[a], strict=True)) / temperature for a in range(len(z)) if a != i
        }
        norm = math.log(math.fsum(math.exp(s) for s in others.values()))
        found = positives(i)
        total += sum(norm - others[p] for p in found) / max(1, len(found))
    return total / len(z)
