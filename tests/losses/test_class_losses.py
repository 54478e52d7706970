"""Losses of class scores against slow loops, and what they say when prediction and target do not meet."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup import losses
from deepsup.errors import ClassCountError, HeadError
from tests.support.slow_losses import number, slow_cross_entropy, slow_squared_hinge


@pytest.mark.parametrize("shape", [(4, 5), (1, 2), (3, 5, 6), (2, 3, 4, 5), (2, 3, 2, 2, 2)], ids=str)
def test_cross_entropy_equals_a_slow_loop(shape: tuple[int, ...]) -> None:
    prediction = 3 * torch.randn(shape, dtype=torch.float64)
    indices = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    soft = torch.rand(shape, dtype=torch.float64).softmax(1)
    for target in (indices, soft):
        value = losses.cross_entropy(prediction, target)
        assert value.shape == ()
        assert number(value) == pytest.approx(slow_cross_entropy(prediction, target), rel=1e-12)


def test_ignored_places_do_not_count() -> None:
    prediction = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    target = torch.randint(0, 3, (2, 4, 4))
    target[0, :2] = -100
    assert float(losses.cross_entropy(prediction, target)) == pytest.approx(slow_cross_entropy(prediction, target))
    losses.check_labels(3, target)


def test_its_gradient_is_softmax_minus_target() -> None:
    prediction = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 4, 2, 2])
    losses.cross_entropy(prediction, target).backward()
    expected = (prediction.detach().softmax(1) - F.one_hot(target, 5)) / 4
    assert torch.allclose(prediction.grad, expected)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (
            torch.zeros(4, 5),
            torch.zeros(4, 8, 8, dtype=torch.long),
            "loss 'cross_entropy' holds scores of shape (4, 5), (N, C, ...), against class indices (N, ...); found a target of "
            "shape (4, 8, 8) and dtype torch.int64. Give this branch a head (or main=) whose output fits the target",
        ),
        (
            torch.zeros(4, 5),
            torch.zeros(4, 6),
            "loss 'cross_entropy' holds scores of shape (4, 5), (N, C, ...), against class indices (N, ...) of whole numbers; "
            "found a target of shape (4, 6) and dtype torch.float32. Class indices: target.long(). Real values: loss mse",
        ),
        (torch.zeros(4, 5, 8, 8), torch.zeros(4, 9, dtype=torch.long), "loss 'cross_entropy' holds scores of shape (4, 5, 8, 8)"),
        (torch.zeros(4, 5), torch.zeros(3, dtype=torch.long), "loss 'cross_entropy' holds scores of shape (4, 5)"),
        (torch.zeros(4, 5), torch.zeros(4), "loss 'cross_entropy' holds scores of shape (4, 5)"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.long), "loss 'cross_entropy' holds scores of shape (4,)"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_meet_are_a_head_error(prediction: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(HeadError) as caught:
        losses.cross_entropy(prediction, target)
    assert str(caught.value).startswith(message)


def test_a_label_without_a_class_is_a_class_count_error() -> None:
    with pytest.raises(ClassCountError) as caught:
        losses.cross_entropy(torch.zeros(3, 5), torch.tensor([0, 5, 2]))
    assert str(caught.value) == (
        "the outputs have 5 classes (labels 0..4), but the target holds labels 0..5. "
        "Build the model with as many classes as the data, or fix the labels."
    )


SHAPES = [(4, 5), (1, 2), (3, 4, 3), (2, 3, 4, 5), (2, 3, 2, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("smoothing", [0, 0.1, 0.9])
def test_smoothing_spreads_a_share_of_the_target_over_all_classes(shape: tuple[int, ...], smoothing: float) -> None:
    prediction = 3 * torch.randn(shape, dtype=torch.float64)
    indices = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    for target in (indices, torch.rand(shape, dtype=torch.float64).softmax(1)):
        value = losses.cross_entropy(prediction, target, smoothing=smoothing)
        assert number(value) == pytest.approx(slow_cross_entropy(prediction, target, smoothing=smoothing), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", losses.FORMS)
def test_squared_hinge_equals_a_slow_loop(shape: tuple[int, ...], form: str) -> None:
    prediction = 2 * torch.randn(shape, dtype=torch.float64)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    value = losses.squared_hinge(prediction, target, form=form)
    assert value.shape == ()
    assert number(value) == pytest.approx(slow_squared_hinge(prediction, target, form=form), rel=1e-12)


@pytest.mark.parametrize("form", losses.FORMS)
def test_squared_hinge_does_not_count_ignored_places(form: str) -> None:
    prediction = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0, -100, 2, 1], [-100, -100, 1, 0]])
    value = losses.squared_hinge(prediction, target, form=form)
    assert number(value) == pytest.approx(slow_squared_hinge(prediction.detach(), target, form=form), rel=1e-12)
    (gradient,) = torch.autograd.grad(value, prediction)
    assert not gradient.transpose(1, 2)[target == -100].any()


def test_one_vs_rest_has_the_gradient_of_the_released_layer() -> None:
    # squared_hinge_loss_layer of the released DSN: 2 * C_ / num times max(0, 1 - d s) times -d, with C_ = 1
    prediction = torch.tensor([[0.5, -2.0, 0.1], [1.5, -0.3, -1.0]], dtype=torch.float64, requires_grad=True)
    losses.squared_hinge(prediction, torch.tensor([0, 2]), form="one-vs-rest").backward()
    expected = [[-2 / 2 * 0.5, 0, 2 / 2 * 1.1], [2 / 2 * 2.5, 2 / 2 * 0.7, -2 / 2 * 2.0]]
    assert torch.allclose(prediction.grad, torch.tensor(expected, dtype=torch.float64))


def test_a_margin_of_one_has_no_squared_hinge() -> None:
    target = torch.tensor([0, 1])
    assert losses.squared_hinge(torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, 2.0]]), target) == 0
    apart = torch.tensor([[1.0, -1.0, -2.0], [-1.0, 1.5, -1.0]])
    assert losses.squared_hinge(apart, target, form="one-vs-rest") == 0
    assert losses.squared_hinge(torch.tensor([[1.5, 1.0, 0.0], [0.0, 3.0, 2.0]]), target) == pytest.approx(0.5**2 / 2)


@pytest.mark.parametrize("form", losses.FORMS)
def test_squared_hinge_says_what_it_needs(form: str) -> None:
    loss = partial(losses.squared_hinge, form=form)
    for target in (torch.rand(4, 5), torch.zeros(4), torch.zeros(3, dtype=torch.long)):
        with pytest.raises(HeadError, match=r"loss 'squared_hinge' holds scores of shape \(4, 5\)"):
            loss(torch.zeros(4, 5), target)
    with pytest.raises(HeadError, match="squared_hinge"):
        loss(torch.zeros(4), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ClassCountError, match=r"labels 0\.\.4.*labels 0\.\.5"):
        loss(torch.zeros(2, 5), torch.tensor([0, 5]))
    with pytest.raises(ClassCountError, match=r"labels 0\.\.4.*labels -1\.\.2"):
        loss(torch.zeros(2, 5), torch.tensor([-1, 2]))


def test_a_gate_lets_nothing_through_below_gamma() -> None:
    for start, norm, gamma in ((0.5, 0.3, 0.9), (0.5, 0.3, 0.8), (0.5, 0.4, 0.8), (2.0, 0.0, 0.0)):
        value, weight = torch.tensor(start, requires_grad=True), torch.tensor(norm, requires_grad=True)
        out = losses.gated(value, weight, gamma)
        assert number(out) == pytest.approx(max(0.0, norm + start - gamma), abs=1e-7)
        out.backward()
        expected = 1.0 if number(out) > 0 else 0.0
        assert (float(value.grad), float(weight.grad)) == (expected, expected)
    assert float(losses.gated(torch.tensor(0.5), 0.25, 0.5)) == 0.25


@pytest.mark.parametrize(("scores", "labels"), [((2, 3), (2,)), ((2, 3, 4, 4), (2, 4, 4))])
def test_a_shift_is_of_sequences_alone(scores: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(HeadError, match=r"cross_entropy\(shift=1\) holds each place of a sequence"):
        losses.get("cross_entropy(shift=1)")(torch.zeros(scores), torch.zeros(labels, dtype=torch.long))
