"""Real values a sample, or a place: how far off they are, and how much of their variance is told. NaN does not count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deepsup.losses.full_size import enlarged
from deepsup.losses.values import met
from deepsup.predictions import Word
from deepsup.supervision.objectives import Objective
from deepsup.tasks.outputs import loss_of
from deepsup.tasks.prediction_tables import ValueFiles
from deepsup.tasks.task import Counts, Task, Values, metric, register
from deepsup.terms import ENSEMBLE

R2, MAE, RMSE = "R²", "MAE", "RMSE"


class Errors(Counts):
    """Sums (C, 6) over what counts: how many, |d|, d², y, y², and y first seen, from which the others are counted."""

    def __init__(self, sums: Tensor | None = None, origin: Tensor | None = None) -> None:
        self.sums, self.origin = sums, origin

    def add(
        self,
        values: Tensor,  # (N, C, *places)
        truth: Tensor,  # (N, C, *places)
        counts: Tensor,  # (N, C, *places), 1 where a value counts, else 0
    ) -> None:
        rows = [t.double().movedim(1, 0).flatten(1) for t in (values, truth, counts)]
        said, true, known = rows
        if self.origin is None:  # a shift by what is typical keeps the digits of the variance
            self.origin = (true * known).sum(1) / known.sum(1).clamp(min=1)
        off, away = (said - true) * known, (true - self.origin[:, None]) * known
        found = torch.stack([known.sum(1), off.abs().sum(1), (off**2).sum(1), away.sum(1), (away**2).sum(1)], 1)
        self.sums = found if self.sums is None else self.sums + found

    def __add__(self, other: Errors) -> Errors:
        if self.sums is None or self.origin is None or other.sums is None or other.origin is None:
            return self if other.sums is None else other
        n, _, _, away, squares = other.sums.T  # counted from the other origin
        shift = other.origin - self.origin
        moved = torch.stack([n, *other.sums.T[1:3], away + n * shift, squares + 2 * shift * away + n * shift**2], 1)
        return Errors(self.sums + moved, self.origin)

    def cpu(self) -> Errors:
        return Errors(*(None if t is None else t.cpu() for t in (self.sums, self.origin)))

    def metrics(self) -> Values:
        if self.sums is None or not float(self.sums[:, 0].sum()):
            return {}
        return {R2: r_squared(self.sums), MAE: mean_absolute_error(self.sums), RMSE: root_mean_squared_error(self.sums)}


@metric(R2, "1 - the squared error over the variance, the mean over the channels", task="values", plain=True)
def r_squared(sums: Tensor) -> float | None:
    """1 - sum d² / sum (y - mean y)², averaged over the channels that vary; None where none does."""
    n, _, squared, away, squares = sums.T
    spread = squares - away**2 / n.clamp(min=1)
    varies = (n > 1) & (spread > 1e-12 * squares.clamp(min=1e-300))
    return float((1 - squared[varies] / spread[varies]).mean()) if bool(varies.any()) else None


@metric(MAE, "the mean absolute error over all values", task="values", lower=True, plain=True)
def mean_absolute_error(sums: Tensor) -> float:
    """sum |d| / n, in the unit of the values."""
    return float(sums[:, 1].sum() / sums[:, 0].sum())


@metric(RMSE, "the root of the mean squared error over all values", task="values", lower=True, plain=True)
def root_mean_squared_error(sums: Tensor) -> float:
    """sqrt(sum d² / n), in the unit of the values."""
    return math.sqrt(float(sums[:, 2].sum() / sums[:, 0].sum()))


@register
class RealValues(Task):
    """C real numbers a sample (N, C), or a place (N, C, *places); of one channel also (N, *places)."""

    name = "values"
    targets = "real values"
    labelled = "real values an image"
    metric = R2
    word = Word("values", None, "mse")
    writer = ValueFiles

    def takes(self, target: Any, kind: str, places: int | None) -> bool:
        return kind == "values" and isinstance(target, Tensor)

    def record(self, counts: Mapping[str, Errors], metrics: Mapping[str, Values]) -> dict[str, Any]:
        """All metrics."""
        return {"scores": metrics} if metrics else {}

    def add(self, counts: dict[str, Errors], found: dict[str, Tensor], target: Any, objective: Objective) -> None:
        size = target.shape[target.ndim - (found["main"].ndim - 2) :] if found["main"].ndim > 2 else ()
        wide = {name: enlarged(s, size, loss_of(name, objective)) for name, s in found.items()}
        if len(wide) > 1 and ENSEMBLE not in wide and len({s.shape for s in wide.values()}) == 1:
            wide[ENSEMBLE] = torch.stack(list(wide.values())).mean(0)
        for name, values in wide.items():
            counts.setdefault(name, Errors()).add(*met("values", values, target))
