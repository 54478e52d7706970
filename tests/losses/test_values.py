"""Losses of real values against loops, with holes, masks and sizes that differ."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deepsup import losses
from deepsup.errors import HeadError
from tests.support.slow_losses import number

EACH: dict[str, Callable[[float], float]] = {
    "mse": lambda d: d * d,
    "l1": abs,
    "huber(delta=0.5)": lambda d: d * d / 2 if abs(d) <= 0.5 else 0.5 * (abs(d) - 0.25),
    "smooth_l1(beta=0.5)": lambda d: d * d if abs(d) < 0.5 else abs(d) - 0.25,
}
SHAPES = [(3, 1), (3, 4), (2, 3, 5), (2, 2, 3, 4), (2, 1, 2, 3, 2)]


def draws(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64), torch.randn(
        shape, generator=draw, dtype=torch.float64
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("text", EACH)
def test_the_mean_is_over_what_counts(text: str, shape: tuple[int, ...]) -> None:
    prediction, target = draws(shape)
    target.view(-1)[::3] = math.nan
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.3
    rows = [
        EACH[text](float(prediction[at] - target[at]))
        for at in itertools.product(*map(range, shape))
        if bool(mask[at]) and not math.isnan(float(target[at]))
    ]
    value = losses.get(text)(prediction, target, mask=mask)
    assert number(value) == pytest.approx(math.fsum(rows) / len(rows), rel=1e-12)


def test_a_prediction_that_is_not_finite_where_nothing_counts_does_no_harm() -> None:
    prediction, target = draws((4, 2))
    prediction[0] = math.inf
    prediction.requires_grad_()
    target[0] = math.nan
    value = losses.mse(prediction, target)
    value.backward()
    assert number(value) == pytest.approx(number((prediction[1:] - target[1:]).square().mean()))
    assert not prediction.grad[0].any()  # type: ignore[index]


@pytest.mark.parametrize("text", [*EACH, "cosine"])
def test_nothing_that_counts_is_zero_with_a_gradient_of_zero(text: str) -> None:
    prediction = torch.randn(3, 2, requires_grad=True)
    value = losses.get(text)(prediction, torch.full((3, 2), math.nan))
    value.backward()
    assert number(value) == 0
    assert not prediction.grad.any()  # type: ignore[union-attr]


def test_cosine_counts_places_of_which_all_channels_count() -> None:
    prediction, target = draws((2, 3, 4))
    target[0, 1, 2] = math.nan
    rows = []
    for n, place in itertools.product(range(2), range(4)):
        p, t = prediction[n, :, place], target[n, :, place]
        if not bool(t.isnan().any()):
            rows.append(1 - float(p @ t) / math.sqrt(float(p @ p) * float(t @ t)))
    assert number(losses.cosine(prediction, target)) == pytest.approx(sum(rows) / 7, rel=1e-9)


def test_one_channel_takes_a_target_without_the_axis_and_any_type() -> None:
    prediction = torch.randn(3, 1, 4, dtype=torch.float64)
    target = torch.randint(0, 9, (3, 4))
    expected = number((prediction[:, 0] - target).square().mean())
    for kind in (torch.uint8, torch.int32, torch.float16, torch.float64):
        assert number(losses.mse(prediction, target.to(kind))) == pytest.approx(expected)
        assert number(losses.mse(prediction, target[:, None].to(kind))) == pytest.approx(expected)


def test_a_target_is_shrunk_by_the_mean_of_what_counts_in_each_cell() -> None:
    target = torch.tensor([[1.0, 3.0, math.nan, 8.0], [5.0, math.nan, math.nan, math.nan]])[None, None]
    prediction = torch.zeros(1, 1, 1, 2, requires_grad=True)
    assert number(losses.l1(prediction, target)) == pytest.approx((3.0 + 8.0) / 2)
    assert number(losses.l1(torch.zeros(1, 1, 1, 4), target)) == pytest.approx((3.0 + 3.0 + 8.0) / 3)
    assert number(losses.l1(prediction, target, mask=target != 8)) == pytest.approx(3.0)  # the second cell has nothing
    nearest = losses.l1(prediction, torch.arange(4.0).view(1, 1, 1, 4), resize="nearest")
    assert number(nearest) == pytest.approx((1 + 3) / 2)


def test_flow_is_in_pixels_of_the_map_that_it_is_at() -> None:
    target = torch.zeros(1, 2, 4, 8)
    target[:, 0], target[:, 1] = 8.0, 2.0  # to the right, down
    small = torch.zeros(1, 2, 2, 2)
    small[:, 0], small[:, 1] = 8.0 * 2 / 8, 2.0 * 2 / 4
    assert number(losses.l1(small, target, flow=True)) == 0
    assert number(losses.l1(small, target, flow=True, resize="interpolate")) == pytest.approx(0)
    assert number(losses.l1(small, target)) == pytest.approx((6 + 1) / 2)
    with pytest.raises(HeadError, match=r"flow=True reads one distance for each of 2 axes.* has 3 channels"):
        losses.l1(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 4, 8), flow=True)


@pytest.mark.parametrize(
    ("prediction", "target"),
    [((3, 2), (3,)), ((3, 2), (3, 3)), ((3, 2), (2, 2)), ((3, 2, 4, 4), (3, 4, 4)), ((3, 1), (3, 1, 2))],
)
def test_a_target_of_another_shape_is_refused(prediction: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(HeadError, match="loss 'mse' holds values of shape"):
        losses.mse(torch.zeros(prediction), torch.zeros(target))


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(HeadError, match=r"the mask of loss 'mse' has shape \(2,\)"):
        losses.mse(torch.zeros(3, 2), torch.zeros(3, 2), mask=torch.ones(2))
