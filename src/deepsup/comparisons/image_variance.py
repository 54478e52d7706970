"""How a difference of two arms varies from image to image, by which images each of their runs is right for.

Runs that are wrong about the same images differ with certainty, whatever their scores: only images count on which they disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepsup.tasks.classification import ACCURACY, answers
from deepsup.tasks.image_values import image_values


def image_count(folder: Path, *arms: Mapping[str, Any], metric: str) -> int | None:
    """Of how many images, or groups of them, the first run that kept it knows what they add to its score."""
    kept = (image_values(folder / run, metric) for arm in arms for run in arm["runs"])
    return next((len(one) for one in kept if one is not None), None)


def image_variances(
    folder: Path,
    baseline: Mapping[str, Any],
    candidate: Mapping[str, Any],
    images: int | None,
    metric: str = ACCURACY,
) -> list[float | None]:
    """After each seed the variance over images of the difference that the seeds so far have in the mean.

    Takes two arms of `compare.json` and the folder it lies in. A run that diverged is wrong about everything, and a pair of
    which one is missing counts for nothing. None where a run of a pair did not keep its answers, and from there on. Of another
    `metric` than accuracy it is what each of the `images` adds to the score (`tasks.image_values`), nothing to one that diverged.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    found: list[float | None] = []
    unknown = images is None
    lost = (*baseline["diverged"], *candidate["diverged"])
    arms = [zip(arm["runs"], arm["final"], strict=True) for arm in (baseline, candidate)]
    for pair in zip(*arms, strict=True):
        if all(score is not None or run in lost for run, score in pair) and not unknown:
            right = [torch.zeros(images or 0) if run in lost else _kept(folder / run, metric) for run, _ in pair]
            kept = [one for one in right if one is not None and len(one) == images]
            unknown = len(kept) < 2
            pairs += [] if unknown else [(kept[0], kept[1])]
        found.append(None if unknown or not pairs else variance(pairs))
    return found


def _kept(run: Path, metric: str) -> Tensor | None:
    return answers(run) if metric == ACCURACY else image_values(run, metric)


def variance(
    pairs: Sequence[tuple[Tensor, Tensor]],  # (N) each, whether baseline and candidate are right
) -> float:
    """The variance over images of the mean difference of the pairs on an image.

    >>> variance([(torch.tensor([1, 0, 0, 1]), torch.tensor([0, 1, 0, 1]))])
    0.6666666666666666
    """
    mean = torch.stack([candidate.double() - baseline.double() for baseline, candidate in pairs]).mean(0)
    return float(mean.var()) if len(mean) > 1 else 1.0
