"""Comparisons of two arms that never ran: counts of images on which their runs disagree, thousands of comparisons at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepsup.comparisons.statistics import half_width, independent


@dataclass(frozen=True)
class World:
    """What is true of two arms: on how many of the `images` they disagree in the mean, and how they differ.

    The part `shared` of the disagreements is the same for all seeds (arms that find other images hard); the rest is drawn
    anew for each. `tau` is the deviation of a seed's own effect, `gap` what the candidate is better by. A share `common` of
    the images is wrong in both arms; with none, all errors are disagreements, the worst for taking errors as independent.
    """

    images: int
    disagreeing: float
    shared: float = 0.0
    tau: float = 0.0
    gap: float = 0.0
    common: float = 0.0


@dataclass(frozen=True)
class Trials:
    """Differences (T, S) of T comparisons with S seeds, and both variances over images after each seed, (T, S)."""

    differences: Any
    measured: Any
    bound: Any
    images: int


def simulate(world: World, *, seeds: int, trials: int, seed: int = 0) -> Trials:
    """Draw comparisons in that world."""
    draw, n = np.random.default_rng(seed), world.images
    same, own = world.disagreeing * world.shared, world.disagreeing * (1 - world.shared)
    up, down = (draw.binomial(n, same / 2 / n, (trials, 1)) for _ in range(2))
    ups, downs = (draw.binomial(n, own / 2 / n, (trials, seeds)) for _ in range(2))
    effects = np.round(draw.normal(0, world.tau, (trials, seeds)) * n) / n if world.tau else 0.0
    differences = (up - down + ups - downs) / n + effects + world.gap
    k = np.arange(1, seeds + 1)
    measured = (up + down + (ups + downs).cumsum(1) / k**2) / n
    wrong = [world.common + (one + (many.cumsum(1) / k)) / n for one, many in ((up, ups), (down, downs))]
    return Trials(differences, measured, independent(1 - wrong[0], 1 - wrong[1], n), n)


def decided(trials: Trials, confidence: float, *, measured: bool, seeds: int | None = None) -> Any:
    """Of each comparison whether its interval after so many seeds leaves out 0: 1 above it, -1 below, 0 not."""
    k = seeds or trials.differences.shape[1]
    first = trials.differences[:, :k]
    variance = (trials.measured if measured else trials.bound)[:, k - 1]
    half = half_width(confidence, k, first.var(1, ddof=1), trials.images, variance)
    return np.sign(first.mean(1)) * (np.abs(first.mean(1)) > half)
