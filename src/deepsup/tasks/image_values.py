"""What each validation image adds to a score that is no share of images: jackknife pseudo-values, kept beside a run.

Of a score theta over n images the value of image i is n theta - (n - 1) theta_(-i), with theta_(-i) the score without it
(Tukey 1958; Efron and Stein 1981, Annals of Statistics 9): their mean estimates the score and their variance / n its variance,
for ratios of sums (IoU, Dice, F1), errors, R², areas under curves and mean average precisions alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from deepsup import documents, ownership
from deepsup.errors import ConfigError
from deepsup.supervision.objectives import Objective
from deepsup.tasks.outputs import scores_of
from deepsup.tasks.task import Counts, Task

FILE = "image_values.json"
MOST = 1000  # values that are kept: of more images each is of as many images in a row, as even as can be


class Batches(Protocol):
    """A split, as far as it is read here."""

    def batches(self, size: int, /, *, seed: int, epoch: int, shuffle: bool) -> Any:
        """Batches (x, y) of at most so many."""


def save(
    folder: Path,
    task: Task,
    split: Batches,
    objective: Objective,
    run: Callable[[Tensor], Any],
    *,
    metric: str,
    size: int,
) -> None:
    """Write the values of the main output's `metric` as `image_values.json`; nothing where one of them is not to be had."""
    parts: list[Counts] = []
    for x, y in split.batches(size, seed=0, epoch=0, shuffle=False):
        if not isinstance(y, Tensor):
            return
        scores = scores_of(run(x), objective)["main"]
        y = y.to(scores.device)
        for i in range(len(y)):
            counts: dict[str, Any] = {}
            task.add(counts, {"main": scores[i : i + 1]}, y[i : i + 1], objective)
            if "main" not in counts:
                return
            parts.append(counts["main"].cpu())
    keep(folder, parts, metric)


def keep(folder: Path, parts: Sequence[Counts], metric: str) -> None:
    """Write what parts of the images add to the score, such as each image, or all queries of an identity."""
    values = pseudo_values(grouped(parts), metric)
    if values is not None:
        told = {"format": 1, "metric": metric, "images": len(parts), "values": values}
        ownership.write_text(folder, FILE, json.dumps(told) + "\n")


def grouped(parts: Sequence[Counts]) -> list[Counts]:
    """The counts of images, or where there are more than `MOST` of so many groups of neighbours."""
    ends = [round(k * len(parts) / min(len(parts), MOST)) for k in range(min(len(parts), MOST) + 1)] if parts else [0]
    return [_sum(parts[first:last]) for first, last in pairwise(ends)]


def pseudo_values(parts: Sequence[Counts], metric: str) -> list[float] | None:
    """The value of each part; None of fewer than two, and where the score with or without one of them is not to be had."""
    n = len(parts)
    if n < 2:
        return None
    after = [parts[-1]]
    for one in reversed(parts[1:-1]):
        after.append(one + after[-1])
    after.reverse()  # after[i]: the sum of all parts behind i
    whole = (parts[0] + after[0]).metrics().get(metric)
    values, before = list[float](), None
    for i, one in enumerate(parts):
        rest = after[i] if before is None else before if i == n - 1 else before + after[i]
        without = rest.metrics().get(metric)
        if whole is None or without is None or not math.isfinite(without):
            return None
        values.append(n * whole - (n - 1) * without)
        before = one if before is None else before + one
    return values


def image_values(folder: Path, metric: str) -> Tensor | None:  # (N), double
    """What images add to a finished run's score; None where that was not kept. Raises `ConfigError` for a damaged file."""
    if not (folder / FILE).exists():
        return None
    try:
        told = documents.parsed(documents.content(folder / FILE))
        values = torch.tensor([float(one) for one in told["values"]], dtype=torch.float64)
        if told["metric"] != metric:
            return None
        if len(values) > 1 and bool(values.isfinite().all()):
            return values
    except (ValueError, TypeError, KeyError):
        pass
    raise ConfigError(f"{folder / FILE} is damaged. Restore it, or remove it: the verdict goes without.")


def _sum(parts: Sequence[Counts]) -> Counts:
    total = parts[0]
    for one in parts[1:]:
        total = total + one
    return total
