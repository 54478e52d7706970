"""Losses between two outputs, against slow loops and PyTorch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup import losses
from deepsup.errors import HeadError
from tests.support.slow_losses import number, slow_kl

SHAPES = [(4, 5), (1, 2), (3, 4, 3), (2, 3, 4, 5), (2, 3, 2, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("temperature", [1, 3.0, 0.5])
@pytest.mark.parametrize("squared", [True, False])
def test_kl_equals_a_slow_loop(shape: tuple[int, ...], temperature: float, squared: bool) -> None:
    prediction, teacher = 3 * torch.randn(2, *shape, dtype=torch.float64)
    options: dict[str, Any] = {"temperature": temperature, "squared": squared}
    value = losses.kl(prediction, teacher, **options)
    assert value.shape == ()
    assert number(value) == pytest.approx(slow_kl(prediction, teacher, **options), rel=1e-10)
    assert float(losses.kl(prediction, prediction, **options)) == pytest.approx(0, abs=1e-12)


def test_kl_is_that_of_torch_and_its_gradient_is_the_difference_of_probabilities() -> None:
    prediction, teacher = 3 * torch.randn(2, 4, 5, dtype=torch.float64)
    prediction.requires_grad_()
    value = losses.kl(prediction, teacher, temperature=3)
    shares = (prediction / 3).log_softmax(1), (teacher / 3).softmax(1)
    assert torch.allclose(value, 9 * F.kl_div(*shares, reduction="batchmean"))
    (gradient,) = torch.autograd.grad(value, prediction)
    assert torch.allclose(gradient, 3 * (shares[0].exp() - shares[1]) / 4)


def released(prediction: Tensor, teacher: Tensor, temperature: float, form: str, e: float = 1e-8) -> Tensor:
    """d-li14/DHM utils/metric.py and sundw2014/DKS KL_divergence.py ("shares"), YingZhangDUT's train_models.py ("ratio")."""
    p, q = (teacher / temperature).softmax(1), (prediction / temperature).softmax(1)
    if form == "ratio":
        return temperature**2 * (p * (e + p / (q + e)).log()).sum(1).mean()
    p, q = ((x + e) / (1 + x.shape[1] * e) for x in (p, q))
    return temperature**2 * (p * (p / q).log()).sum(1).mean()


@pytest.mark.parametrize("form", ["shares", "ratio"])
@pytest.mark.parametrize(("temperature", "spread"), [(1, 1), (1, 20), (3, 20), (2, 300)])
def test_kl_with_eps_is_the_released_one_in_value_and_gradient(form: str, temperature: float, spread: float) -> None:
    stream = torch.Generator().manual_seed(0)
    prediction, teacher = spread * torch.randn(2, 64, 100, dtype=torch.float64, generator=stream)
    prediction.requires_grad_()
    expected = released(prediction, teacher, temperature, form)
    found = losses.kl(prediction, teacher, temperature=temperature, eps=1e-8, ratio=form == "ratio")
    assert number(found) == pytest.approx(number(expected), rel=1e-12)
    pair = [torch.autograd.grad(v, prediction)[0] for v in (found, expected)]
    assert torch.allclose(*pair, rtol=1e-9, atol=1e-15)


def test_eps_bounds_what_scores_far_apart_cost() -> None:
    stream = torch.Generator().manual_seed(0)
    prediction, teacher = 20 * torch.randn(2, 4096, 100, dtype=torch.float64, generator=stream)
    assert number(losses.kl(prediction, teacher)) == pytest.approx(50, abs=2)
    for ratio in (False, True):
        bounded = number(losses.kl(prediction, teacher, eps=1e-8, ratio=ratio))
        assert 17 < bounded < -math.log(1e-8)
    for shape in ((3, 1), (3, 4)):  # one score, several labels: a sigmoid each, two probabilities
        s, t = 300 * torch.randn(2, *shape, dtype=torch.float64, generator=stream)
        pairs = [torch.stack([x.flatten(), -x.flatten()], 1) / 2 for x in (s, t)]
        kind = "class" if shape[1] == 1 else "labels"
        expected = released(pairs[0], pairs[1], 1, "shares") * shape[1]
        assert number(losses.kl(s, t, eps=1e-8, kind=kind)) == pytest.approx(number(expected), rel=1e-10)


def test_kl_needs_no_smoothing_where_scores_lie_far_apart() -> None:
    prediction = torch.tensor([[0.0, 2e4]], requires_grad=True)
    value = losses.kl(prediction, torch.tensor([[2e4, 0.0]]))
    assert number(value) == 2e4
    value.backward()
    assert prediction.grad.tolist() == [[-1, 1]]


@pytest.mark.parametrize("shape", [(3,), (4, 6), (2, 3, 4, 5)], ids=str)
def test_hint_is_the_squared_distance_of_each_sample_averaged(shape: tuple[int, ...]) -> None:
    feature, teacher = torch.randn(2, *shape, dtype=torch.float64)
    pairs = zip(feature.reshape(shape[0], -1).tolist(), teacher.reshape(shape[0], -1).tolist(), strict=True)
    expected = sum(sum((a - b) ** 2 for a, b in zip(f, t, strict=True)) for f, t in pairs) / shape[0]
    assert float(losses.hint(feature, teacher)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(3,), (4, 6), (2, 3, 4, 5)], ids=str)
def test_hint_that_is_not_squared_is_the_distance_of_whole_batches(shape: tuple[int, ...]) -> None:
    feature, teacher = torch.randn(2, *shape, dtype=torch.float64).requires_grad_()
    value = losses.hint(feature, teacher, squared=False)
    assert number(value) == pytest.approx(math.sqrt(float(((feature - teacher) ** 2).detach().sum())), rel=1e-12)
    same = feature.detach().requires_grad_()
    losses.hint(same, feature.detach(), squared=False).backward()
    assert same.grad.eq(0).all()  # where the root has no derivative


@pytest.mark.parametrize(
    ("loss", "prediction", "teacher"),
    [
        (losses.kl, torch.zeros(4, 5), torch.zeros(4, 6)),
        (losses.kl, torch.zeros(4, 5), torch.zeros(4, dtype=torch.long)),
        (losses.kl, torch.zeros(4), torch.zeros(4)),
        (losses.hint, torch.zeros(4, 64), torch.zeros(4, 128)),
        (losses.hint, torch.zeros(4, 64), torch.zeros(1, 64)),
        (losses.hint, torch.zeros(()), torch.zeros(())),
    ],
)
def test_outputs_of_two_shapes_are_a_head_error(loss: losses.Loss, prediction: Tensor, teacher: Tensor) -> None:
    with pytest.raises(HeadError) as caught:
        loss(prediction, teacher)
    found = f"found {tuple(prediction.shape)} and {tuple(teacher.shape)}. Give the branch a head"
    assert f"{loss.__name__} compares two outputs of one shape; {found}" in str(caught.value)


def test_none_is_zero_whatever_the_prediction_is() -> None:
    prediction = torch.tensor([[float("inf"), float("nan")]], requires_grad=True)
    value = losses.none(prediction, None)
    assert (value.shape, number(value), value.requires_grad) == ((), 0.0, False)
