"""What images add to a score, against scores counted again without each of them, and intervals that know it in simulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import deepsup as ds
from deepsup.comparisons.image_variance import image_count, image_variances
from deepsup.comparisons.statistics import compared, half_width
from deepsup.errors import ConfigError
from deepsup.tasks import TASKS
from deepsup.tasks.image_values import MOST, grouped, image_values, pseudo_values, save

N = 9


class Fixed:
    """A split of tensors."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def batches(self, size: int, *, seed: int, epoch: int, shuffle: bool) -> Any:
        assert not shuffle
        return zip(self.x.split(size), self.y.split(size), strict=True)


def cases() -> dict[str, tuple[str, str, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    scores, wide = torch.randn(N, 3, generator=draw), torch.randn(N, 2, 5, 6, generator=draw)
    labels = (torch.rand(N, 3, generator=draw) < 0.5).float()
    maps = torch.randint(0, 2, (N, 5, 6), generator=draw)
    values = scores + 0.3 * torch.randn(N, 3, generator=draw)
    return {
        "mean IoU": ("segmentation", "cross_entropy", wide, maps),
        "Dice": ("segmentation", "cross_entropy", wide, maps),
        "F1": ("segmentation", "cross_entropy", wide, maps),
        "ROC-AUC": ("segmentation", "cross_entropy", wide, maps),
        "mAP": ("labels", "binary", scores, labels),
        "label F1": ("labels", "binary", scores, labels),
        "R²": ("values", "mse", scores, values),
        "RMSE": ("values", "mse", scores, values),
    }


def counted(task: str, objective: ds.Objective, scores: Tensor, y: Tensor) -> Any:
    counts: dict[str, Any] = {}
    TASKS[task].add(counts, {"main": scores}, y, objective)
    return counts["main"].metrics()


@pytest.mark.parametrize("metric", cases())
@pytest.mark.parametrize("size", [1, 4])
def test_a_value_is_what_the_score_loses_without_the_image(metric: str, size: int, tmp_path: Path) -> None:
    task, loss, scores, y = cases()[metric]
    objective = ds.Objective(loss=loss)
    objective.settle({"main": scores}, y)
    if metric not in counted(task, objective, scores, y):
        pytest.skip(f"{task} has no {metric}")
    save(tmp_path, TASKS[task], Fixed(scores, y), objective, lambda x: x, metric=metric, size=size)
    found = image_values(tmp_path, metric)
    assert found is not None
    whole = counted(task, objective, scores, y)[metric]
    for i in range(N):
        rest = [j for j in range(N) if j != i]
        without = counted(task, objective, scores[rest], y[rest])[metric]
        assert float(found[i]) == pytest.approx(N * whole - (N - 1) * without, abs=1e-9)
    assert image_values(tmp_path, "another") is None


def test_more_images_are_read_in_groups_of_neighbours() -> None:
    class Number(int):
        def __add__(self, other: int) -> Number:
            return Number(int(self) + int(other))

        def metrics(self) -> dict[str, float]:
            return {"sum": float(self)}

    parts = [Number(i) for i in range(2 * MOST + 1)]
    found = grouped(parts)  # type: ignore[arg-type]
    assert len(found) == MOST
    assert sum(int(one) for one in found) == sum(range(2 * MOST + 1))  # type: ignore[call-overload]
    assert grouped(parts[:3]) == parts[:3]  # type: ignore[arg-type]
    assert pseudo_values(parts[:1], "sum") is None  # type: ignore[arg-type]
    assert pseudo_values(parts[:2], "no such metric") is None  # type: ignore[arg-type]


def test_a_damaged_file_is_named_and_an_absent_one_is_not_known(tmp_path: Path) -> None:
    assert image_values(tmp_path, "mean IoU") is None
    for text in ("{", '{"metric": "mean IoU"}', '{"metric": "mean IoU", "values": [1, NaN]}', "[]"):
        (tmp_path / "image_values.json").write_text(text)
        with pytest.raises(ConfigError, match=r"image_values\.json is damaged"):
            image_values(tmp_path, "mean IoU")


def arm(name: str, *diverged: str) -> dict[str, Any]:
    return {"runs": [f"{name}/seed0", f"{name}/seed1"], "final": [0.5, 0.5], "diverged": list(diverged)}


def test_the_variance_of_a_difference_is_that_of_the_values(tmp_path: Path) -> None:
    draw, kept = np.random.default_rng(0), {}
    for run in ("a/seed0", "a/seed1", "b/seed0", "b/seed1"):
        kept[run] = draw.normal(0.5, 0.1, 7)
        (tmp_path / run).mkdir(parents=True)
        told = {"format": 1, "metric": "Dice", "images": 7, "values": list(kept[run])}
        (tmp_path / run / "image_values.json").write_text(json.dumps(told))
    a, b = arm("a"), arm("b")
    assert image_count(tmp_path, a, b, metric="Dice") == 7
    assert image_count(tmp_path, a, b, metric="mean IoU") is None
    first, second = (kept[f"b/seed{i}"] - kept[f"a/seed{i}"] for i in range(2))
    expected = [np.var(first, ddof=1), np.var((first + second) / 2, ddof=1)]
    assert image_variances(tmp_path, a, b, 7, "Dice") == pytest.approx(expected)
    lost = image_variances(tmp_path, a, arm("b", "b/seed1"), 7, "Dice")
    assert lost[1] == pytest.approx(np.var((first - kept["a/seed1"]) / 2, ddof=1))
    (tmp_path / "b/seed1/image_values.json").unlink()
    assert image_variances(tmp_path, a, b, 7, "Dice")[1] is None


def iou_values(hit: Any, whole: Any) -> tuple[Any, Any]:
    """Of intersections and unions (..., N): the IoU over all images, and its pseudo-values."""
    n, hits, wholes = hit.shape[-1], hit.sum(-1, keepdims=True), whole.sum(-1, keepdims=True)
    theta = hits / wholes
    return theta[..., 0], n * theta - (n - 1) * (hits - hit) / (wholes - whole)


@pytest.mark.parametrize("images", [20, 100, 1000])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize(("own", "tau"), [(0.0, 0.0), (0.5, 0.0), (0.5, 0.02)])
def test_at_most_6_in_100_verdicts_on_equal_arms_are_false(images: int, seeds: int, own: float, tau: float) -> None:
    """Arms that find other images hard, equally good over all: `own` of that by seed, `tau` the seed's effect."""
    draw, trials = np.random.default_rng(images + seeds), 400_000 // images // seeds + 400
    area = draw.lognormal(0, 0.7, (trials, 1, images))  # of the object: images count by their size
    arms = []
    for _ in range(2):
        hard = draw.normal(0, 1, (trials, 1, images)) + own * draw.normal(0, 1, (trials, seeds, images))
        share = 1 / (1 + np.exp(-(0.8 + 0.8 * hard + draw.normal(0, tau * 5, (trials, seeds, 1)))))
        arms.append(iou_values(area * share, area * np.ones_like(share)))
    (theta_a, values_a), (theta_b, values_b) = arms
    differences = theta_b - theta_a
    variance = (values_b - values_a).mean(1).var(-1, ddof=1)
    half = half_width(0.95, seeds, differences.var(1, ddof=1), None, variance, values=images)
    false = float((np.abs(differences.mean(1)) > half).mean())
    limit = 0.06 + 2 * (0.05 * 0.95 / trials) ** 0.5  # and what so many trials may add by chance
    assert false <= limit, false
    blind = half_width(0.95, seeds, differences.var(1, ddof=1), None, 0.0)
    if not own:
        assert float((np.abs(differences.mean(1)) > blind).mean()) > 0.3  # the seeds alone know nothing of the images


def test_pairs_that_all_differ_alike_are_judged_by_their_images_and_by_nothing_where_these_do_not_vary() -> None:
    told = {"values": 100, "variance": 0.01}
    assert compared([0.5, 0.5], [0.6, 0.6], **told).verdict(0.95).verdict == "helps"  # type: ignore[arg-type]
    assert compared([0.5, 0.5], [0.51, 0.51], **told).verdict(0.95).verdict == "no evidence"  # type: ignore[arg-type]
    alike = compared([0.5, 0.5], [0.6, 0.6], values=100, variance=0.0)
    assert alike.verdict(0.95).verdict == "no evidence"
    assert compared([0.5, 0.5], [0.6, 0.6], values=100).values is None
