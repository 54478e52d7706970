"""Losses against slow loops, and what they say when prediction and target do not meet."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup import losses
from deepsup.errors import ClassCountError, ConfigError, HeadError


def slow_cross_entropy(prediction: Tensor, target: Tensor, *, ignore: int = -100) -> float:
    """One sample and one place at a time, in Python floats."""
    terms: list[float] = []
    places = list(itertools.product(*map(range, prediction.shape[2:])))
    for n in range(prediction.shape[0]):
        for place in places:
            scores = [float(prediction[(n, c, *place)]) for c in range(prediction.shape[1])]
            norm = math.log(math.fsum(math.exp(s) for s in scores))
            if target.is_floating_point():
                terms.append(sum(float(target[(n, c, *place)]) * (norm - s) for c, s in enumerate(scores)))
            elif int(target[(n, *place)]) != ignore:
                terms.append(norm - scores[int(target[(n, *place)])])
    return math.fsum(terms) / len(terms)


@pytest.mark.parametrize("shape", [(4, 5), (1, 2), (3, 5, 6), (2, 3, 4, 5), (2, 3, 2, 2, 2)], ids=str)
def test_cross_entropy_equals_a_slow_loop(shape: tuple[int, ...]) -> None:
    prediction = 3 * torch.randn(shape, dtype=torch.float64)
    indices = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    soft = torch.rand(shape, dtype=torch.float64).softmax(1)
    for target in (indices, soft):
        value = losses.cross_entropy(prediction, target)
        assert value.shape == ()
        assert float(value) == pytest.approx(slow_cross_entropy(prediction, target), rel=1e-12)


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
            "a prediction of shape (4, 5) needs class indices of shape (4,); found a target of shape (4, 8, 8). "
            "Give this branch a head (or main=) whose output fits the target.",
        ),
        (
            torch.zeros(4, 5),
            torch.zeros(4, 6),
            "a prediction of shape (4, 5) needs probabilities of shape (4, 5); found a target of shape (4, 6). ",
        ),
        (torch.zeros(4, 5, 8, 8), torch.zeros(4, 8, 9, dtype=torch.long), "a prediction of shape (4, 5, 8, 8) needs class"),
        (torch.zeros(4, 5), torch.zeros(3, dtype=torch.long), "a prediction of shape (4, 5) needs class indices of shape (4,)"),
        (torch.zeros(4, 5), torch.zeros(4), "the target has class indices of dtype torch.float32; convert them: target.long()."),
        (torch.zeros(4), torch.zeros(4, dtype=torch.long), "a prediction of shape (4,) needs"),
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


@pytest.mark.parametrize("labels", [[0, 5], [-1, 2], [-100, 7], [255, 0]], ids=str)
def test_labels_out_of_range_are_found(labels: list[int]) -> None:
    with pytest.raises(ClassCountError, match=r"labels 0\.\.4"):
        losses.check_labels(5, torch.tensor(labels))


@pytest.mark.parametrize(
    "target",
    [torch.tensor([0, 4]), torch.tensor([-100, 4]), torch.rand(2, 5), torch.zeros(0, dtype=torch.long)],
    ids=["in range", "ignored", "soft", "empty"],
)
def test_labels_in_range_pass(target: Tensor) -> None:
    losses.check_labels(5, target)


def test_losses_are_got_by_name_or_brought() -> None:
    assert losses.get("cross_entropy") is losses.cross_entropy
    assert losses.get(F.mse_loss) is F.mse_loss
    assert losses.show("cross_entropy") == "cross_entropy"
    assert losses.show(F.mse_loss) == "custom:mse_loss"
    assert losses.show(torch.nn.MSELoss()) == "custom:MSELoss"
    with pytest.raises(ConfigError) as caught:
        losses.get("crossentropy")
    assert str(caught.value).startswith(
        "no loss is called 'crossentropy'. Closest: cross_entropy. Losses: cross_entropy"
    )
    with pytest.raises(ConfigError, match="no loss is called"):
        losses.get(None)  # type: ignore[arg-type]
