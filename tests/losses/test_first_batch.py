"""What the first batch tells: the axis of the classes, labels without a class, floats that are no probabilities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deepsup import losses
from deepsup.errors import ClassCountError, HeadError, OutputError
from deepsup.losses.first_batch import check_axis, check_places, check_target, guessed_axis
from deepsup.predictions import Prediction


def test_an_axis_is_guessed_from_what_a_target_fits_alone() -> None:
    assert guessed_axis(torch.zeros(2, 7, 5), torch.zeros(2, 7, dtype=torch.long)) == -1
    assert guessed_axis(torch.zeros(2, 5, 7), torch.zeros(2, 7, dtype=torch.long)) == 1
    assert guessed_axis(torch.zeros(2, 6, 4, 5), torch.zeros(2, 1, 6, 4, dtype=torch.uint8)) == -1
    assert guessed_axis(torch.zeros(2, 5, 3, 3), torch.zeros(2, 6, 6, dtype=torch.long)) == 1  # neither
    assert guessed_axis(torch.zeros(2, 8, 10, 5), torch.zeros(2, 32, 40, dtype=torch.long)) == -1  # by the ratio
    assert (
        guessed_axis(torch.zeros(2, 5, 8, 10), torch.zeros(2, 30, 40, dtype=torch.long)) == 1
    )  # give or take rounding
    assert guessed_axis(torch.zeros(2, 5, 9), torch.full((2, 4), 8)) == -1  # axis 1 has no class 8
    soft = torch.rand(2, 7, 5).softmax(-1)
    assert guessed_axis(soft, soft) == -1
    assert guessed_axis(soft, soft.transpose(1, 2).contiguous().view(2, 7, 5)) == 1


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((2, 7, 7), torch.zeros(2, 7, dtype=torch.long)),  # as many places as classes
        ((2, 7, 7), torch.zeros(2, 1, 7, dtype=torch.uint8)),
        ((2, 1, 1), torch.zeros(2, 1, dtype=torch.long)),
        ((2, 4, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)),
        ((2, 4, 4, 4), torch.zeros(2, 16, 16, dtype=torch.long)),
        ((2, 3, 3, 3, 3), torch.zeros(2, 6, 6, 6, dtype=torch.long)),
        ((2, 5, 9), torch.zeros(2, 20, dtype=torch.long)),  # a sequence of another length has no ratio
        ((2, 3, 3), torch.eye(3).expand(2, 3, 3)),  # sums to 1 both ways
        ((2, 4, 4, 4), torch.full((2, 4, 4, 4), 0.25)),
    ],
)
def test_what_fits_both_axes_is_refused_where_nothing_else_tells(shape: tuple[int, ...], target: Tensor) -> None:
    with pytest.raises(OutputError, match=r"axis 1 and on the last alike.* Objective\(classes_axis=1\), or -1"):
        guessed_axis(torch.zeros(shape), target)
    for axis in (1, -1):
        check_axis(Prediction("class", axis, shape[1], len(shape) - 2, "task 'tokens'"), torch.zeros(shape), target)
        guess = Prediction("class", axis, shape[axis], len(shape) - 2, "its shape")
        if not target.is_floating_point():
            with pytest.raises(
                OutputError, match=r"fit classes on axis 1 and on the last alike.*classes_axis=1\), or -1"
            ):
                check_axis(guess, torch.zeros(shape), target)


def test_of_numbers_of_their_own_a_map_tells_where_its_channels_are() -> None:
    for kind in ("values", "labels"):
        for shape, axis in {(2, 3, 8, 8): 1, (2, 8, 8, 3): -1, (2, 3, 6, 8): 1, (2, 4, 9): 1, (2, 8, 8, 8): 1}.items():
            assert guessed_axis(torch.zeros(shape), torch.zeros(shape), kind) == axis, shape


@pytest.mark.parametrize("axis", [1, -1])
def test_labels_that_fit_the_other_axis_alone_are_refused(axis: int) -> None:
    shape, wrong = ((2, 5, 7), (2, 5)) if axis == 1 else ((2, 7, 5), (2, 5))
    planned = Prediction("class", axis, 5, 1, "the last Linear 'fc'")
    with pytest.raises(OutputError, match=rf"by the last Linear 'fc'\. Say it: plan\(\.\.\., classes_axis={-axis}"):
        check_axis(planned, torch.zeros(shape), torch.zeros(wrong, dtype=torch.long))
    check_axis(planned, torch.zeros(shape), torch.zeros(2, 7, dtype=torch.long))
    check_axis(planned, torch.zeros(shape), torch.zeros(2, 9, dtype=torch.long))  # another size: the loss decides


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([[1.0, 1, 0], [0, 0, 0]]), "0 to 1, and these are several labels a sample: loss='binary'"),
        (torch.tensor([[1.5, -2, 0], [0, 3, 0]]), "-2 to 3, and real values need loss='mse', 'l1' or 'huber'"),
        (torch.tensor([[0.4, 0.4, 0.4], [1, 0, 0]]), "0 to 1, and real values"),
    ],
)
def test_floats_that_are_no_probabilities_name_the_loss_that_would_fit(target: Tensor, message: str) -> None:
    with pytest.raises(HeadError, match=message):
        check_target("cross_entropy", torch.zeros(2, 3), target)


def test_labels_of_any_type_are_held_against_the_classes() -> None:
    for kind in (torch.uint8, torch.int16, torch.int64):
        check_target("cross_entropy", torch.zeros(2, 3), torch.tensor([0, 2]).to(kind))
        with pytest.raises(ClassCountError, match=r"labels 0\.\.3"):
            check_target("cross_entropy", torch.zeros(2, 3), torch.tensor([0, 3]).to(kind))
    check_target("binary", torch.zeros(2, 1), torch.tensor([0, 1]))
    check_target("binary", torch.zeros(2, 3), torch.tensor([[0, 1, 1], [1, 0, 0]]))
    with pytest.raises(ClassCountError, match=r"labels 0\.\.156"):  # -100 in a byte
        check_target("cross_entropy", torch.zeros(2, 3), torch.tensor([0, 156], dtype=torch.uint8))


def test_labels_are_from_0_to_1_on_any_device() -> None:
    for bad in (torch.tensor([[0.0, 1.5, math.nan]]), torch.tensor([[0, 2, 1]])):
        with pytest.raises(
            HeadError, match=r"reads labels from 0 to 1, and this target holds 0 to [12]\.?5?\. Real values"
        ):
            check_target("binary", torch.zeros(1, 3), bad)
    check_target("binary(ignore_index=7)", torch.zeros(1, 3), torch.tensor([[0.0, 7.0, math.nan]]))
    check_target("binary", torch.zeros(1, 3), torch.tensor([[0, 1, -100]]))


def test_a_batch_of_ignored_labels_alone_is_zero() -> None:
    scores = torch.randn(3, 4, requires_grad=True)
    value = losses.cross_entropy(scores, torch.full((3,), -100))
    value.backward()
    assert float(value.detach()) == 0
    assert not scores.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("loss", [torch.nn.MSELoss(), torch.nn.L1Loss(), torch.nn.BCEWithLogitsLoss()])
def test_losses_of_pytorch_stretch_no_target(loss: torch.nn.Module) -> None:
    check_target(loss, torch.zeros(4, 1), torch.zeros(4, 1))
    with pytest.raises(HeadError, match=r"would stretch a target of shape \(4,\) over an output of \(4, 1\)"):
        check_target(loss, torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("rounds", [math.ceil, math.floor, lambda n: int(n) + 1])
def test_maps_whose_stride_rounded_or_padded_meet_their_target(stride: int, rounds: Callable[[float], int]) -> None:
    for height, width in itertools.product(range(64, 131, 11), range(33, 140, 7)):
        size = [max(1, rounds(side / stride)) for side in (height, width)]
        check_places("cross_entropy", torch.zeros(1, 3, *size), torch.zeros(1, height, width))
        check_places("mse", torch.zeros(1, 1, *size), torch.zeros(1, 1, height, width))


@pytest.mark.parametrize(("size", "full"), [((8, 16), (32, 32)), ((16, 16), (32, 64)), ((4, 8, 8), (32, 32, 32))])
def test_maps_of_another_shape_meet_only_where_it_is_said(size: tuple[int, ...], full: tuple[int, ...]) -> None:
    labels, values = torch.zeros(1, *full, dtype=torch.long), torch.zeros(1, 3, *full)
    for loss, target, how in (
        ("cross_entropy", labels, "enlarge"),
        ("binary", labels, "enlarge"),
        ("mse", values, "area"),
    ):
        with pytest.raises(HeadError, match=rf"which no stride explains.* resize='{how}' of the loss"):
            check_places(loss, torch.zeros(1, 3, *size), target)
        check_places(f"{loss}(resize='{how}')", torch.zeros(1, 3, *size), target)
