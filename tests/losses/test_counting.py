"""Over how much a loss is a mean: means of batches of any size, weighed by it, are the mean of all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepsup import losses
from deepsup.losses.counting import counted, counts_nothing

SMALL, LARGE = (7, 3, 4, 4), (7, 3, 8, 8)
CUTS = ((0, 3), (3, 6), (6, 7))


def labels(*shape: int) -> Tensor:
    found = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(1))
    found[:2].flatten()[: found[:2].numel() // 2] = -100
    found[4].flatten()[:1] = -100
    return found


def holes(values: Tensor, hole: float = math.nan) -> Tensor:
    values[:2, 0] = hole
    values[4, 1] = hole
    return values


def hot(*shape: int, hole: float = math.nan) -> Tensor:
    return holes((torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5).float(), hole)


def real(*shape: int) -> Tensor:
    return holes(torch.randn(shape, generator=torch.Generator().manual_seed(3)))


def sparse(known: float) -> Tensor:
    draw = torch.Generator().manual_seed(6)
    return torch.where(torch.rand(LARGE, generator=draw) < known, torch.randn(LARGE, generator=draw), math.nan)


MASK = torch.rand(7, 3, generator=torch.Generator().manual_seed(4)) < 0.6


@pytest.mark.parametrize(
    ("loss", "shape", "target"),
    [
        ("cross_entropy", (7, 3), labels(7)),
        ("cross_entropy(class_weight=[1, 5, 0.5], smoothing=0.2)", (7, 3), labels(7, 1)),
        ("cross_entropy(shift=1)", (7, 3, 5), labels(7, 5)),
        ("cross_entropy(resize='nearest')", SMALL, labels(7, 8, 8)),
        ("cross_entropy(resize='area', class_weight=[1, 5, 0.5])", SMALL, labels(7, 8, 8)),
        ("squared_hinge", (7, 3), labels(7)),
        ("binary(class_weight=[1, 5, 0.5])", (7, 3), labels(7)),
        ("binary(class_weight=[1, 5])", (7, 1), labels(7).clamp(max=1)),
        ("binary(class_weight=[1, 5, 0.5])", (7, 3), hot(7, 3)),
        ("binary(class_weight=[1, 5, 0.5], resize='nearest')", SMALL, hot(*LARGE)),
        ("binary(class_weight=[1, 5])", (7, 1), hot(7, 2)[:, 1:]),
        ("binary(class_weight=[1, 5], resize='area')", (7, 1, 4, 4), (sparse(0.7)[:, :1] > 0).float()),
        ("binary(ignore_index=7)", (7, 3), hot(7, 3, hole=7.0)),
        ("binary(resize='nearest')", SMALL, labels(7, 8, 8)),
        ("balanced", (7, 1, 4, 4), labels(7, 8, 8).clamp(max=1)),
        ("mse", (7, 3), real(7, 3)),
        ("mse", (7, 3), torch.arange(21).view(7, 3) - 10),  # whole numbers below 0 are values
        ("mse", SMALL, sparse(0.2)),
        ("l1(resize='nearest')", SMALL, sparse(0.5)),
        ("huber(resize='interpolate')", SMALL, sparse(0.5)),
        ("cosine", (7, 3), real(7, 3)),
        ("cosine", SMALL, sparse(0.7)),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5, 0.5])), (7, 3), labels(7)),
    ],
)
def test_the_means_of_batches_make_the_mean_of_all(loss: Any, shape: tuple[int, ...], target: Tensor) -> None:
    scores, function = torch.randn(shape, generator=torch.Generator().manual_seed(5)), losses.get(loss)
    parts = [(function(scores[a:b], target[a:b]), counted(loss, scores[a:b], target[a:b])) for a, b in CUTS]
    weights = [b - a if n is None else float(n) for (_, n), (a, b) in zip(parts, CUTS, strict=True)]
    mean = sum(float(v.nan_to_num()) * w for (v, _), w in zip(parts, weights, strict=True)) / sum(weights)
    assert mean == pytest.approx(float(function(scores, target)), rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_what_is_masked_does_not_count(loss: str) -> None:
    scores, target = torch.randn(7, 3), torch.randn(7, 3)
    found = losses.LOSSES[loss]
    parts = [
        (found(scores[a:b], target[a:b], mask=MASK[a:b]), counted(loss, scores[a:b], target[a:b], MASK[a:b]))
        for a, b in CUTS
    ]
    mean = sum(float(v * n) for v, n in parts if n is not None) / sum(float(n) for _, n in parts if n is not None)
    assert mean == pytest.approx(float(found(scores, target, mask=MASK)), rel=1e-5)


def test_what_is_no_tensor_is_counted_in_samples() -> None:
    assert counted("cross_entropy", torch.zeros(2, 3), [1, 2]) is None
    assert counted("dice", torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)) is None


NONE = torch.full((2, 5), -100)
NAN = torch.full((2, 3, 5), math.nan)


@pytest.mark.parametrize(
    ("loss", "target", "mask"),
    [
        ("cross_entropy", NONE, None),
        ("cross_entropy", NONE.to(torch.int8).unsqueeze(1), None),
        ("cross_entropy(ignore_index=7)", torch.full((2, 5), 7), None),
        ("cross_entropy(shift=1)", torch.cat([NONE[:, :1] + 101, NONE[:, 1:]], 1), None),
        ("cross_entropy(class_weight=[1, 0, 1])", torch.ones(2, 5, dtype=torch.long), None),
        ("cross_entropy(resize='nearest')", torch.where(torch.arange(10) % 2 == 0, 1, -100).expand(2, 10), None),
        ("dice", NONE, None),
        ("binary", NAN, None),
        ("binary", NAN.nan_to_num(-100).long(), None),
        ("mse", NAN, None),
        ("l1", torch.zeros(2, 3, 5), torch.zeros(2, 5)),
        ("cosine", torch.where(torch.arange(3).view(1, 3, 1) == 1, NAN, 0.0), None),
        (nn.CrossEntropyLoss(), NONE, None),
        ("cross_entropy", torch.zeros(0, 5, dtype=torch.long), None),
    ],
)
def test_a_target_of_which_nothing_counts_is_known(loss: Any, target: Tensor, mask: Tensor | None) -> None:
    scores = torch.randn(len(target), 3, 5, requires_grad=True)
    assert counts_nothing(loss, scores, target, mask)
    if isinstance(loss, str):
        value = losses.get(loss)(scores, target, **({} if mask is None else {"mask": mask}))
        (gradient,) = torch.autograd.grad(value, scores)
        assert float(value.detach()) == 0
        assert not gradient.any()
    one = target.nan_to_num(0).clone() if target.is_floating_point() else target.clone().long()
    if len(target):
        one.view(-1)[-1] = 0
        assert not counts_nothing(loss, scores, one, None)


@pytest.mark.parametrize(
    ("loss", "wide"),
    [
        *((name, False) for name in ("cross_entropy", "squared_hinge", "binary", "dice", "triplet", "circle")),
        *((name, True) for name in ("cross_entropy", "binary", "mse", "cosine", "kl", "hint", "hint(squared=False)")),
    ],
)
def test_a_batch_of_no_sample_is_zero(loss: str, wide: bool) -> None:
    scores = torch.zeros(0, 3, requires_grad=True)
    value = losses.get(loss)(scores, torch.zeros(0, 3) if wide else torch.zeros(0, dtype=torch.long))
    value.backward()
    assert float(value.detach()) == 0
