"""What an objective sees in its first batch."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import ClassCountError, ConfigError, HeadError
from deepsup.losses.resizing import LostClassesWarning
from deepsup.supervision.first_batch_checks import check_crops, check_targets, warn_of_lost
from deepsup.supervision.targets import read
from deepsup.terms import Edge


def test_classes_that_shrinking_loses_are_named_once_for_each_output() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[0, 0, 0] = 2
    edges = (Edge("main"), Edge("side", loss="cross_entropy(resize='nearest')"))
    found = {"main": torch.zeros(1, 3, 8, 8), "side": torch.zeros(1, 3, 2, 2)}
    with pytest.warns(LostClassesWarning, match="at 2x2 the labels of 'side' .* have lost wall"):
        warn_of_lost(edges, found, target, ("sky", "road", "wall"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_lost((Edge("main"),), found, target, ())


def test_crops_come_in_pairs() -> None:
    check_crops(torch.tensor([1, 2, 1, 2]), "cds")
    for wrong in ([1, 2, 2, 1], [1, 2, 1]):
        with pytest.raises(ConfigError, match="method 'cds' compares two crops of each image"):
            check_crops(torch.tensor(wrong), "cds")


HOT, INDEX = torch.tensor([[1.0, 1, 0], [0, 0, 0]]), torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("main", "side", "target", "message"),
    [
        ("binary", "cross_entropy", HOT, "these are several labels a sample: loss='binary'"),
        ("cross_entropy", "cross_entropy", {"main": INDEX, "side": HOT}, "these are several labels a sample"),
        ("cross_entropy", "cross_entropy", (INDEX, HOT, 0.3), "these are several labels a sample"),
        ("mse", "cross_entropy", torch.tensor([[2.0, -1, 0], [0, 3, 0]]), "real values need loss='mse'"),
        ("cross_entropy", F.mse_loss, {"main": INDEX, "side": HOT[:, :1]}, r"would stretch a target of shape \(2, 1\)"),
        (
            "cross_entropy",
            F.binary_cross_entropy_with_logits,
            {"main": INDEX, "side": HOT * 5},
            "reads labels from 0 to 1, and this target holds 0 to 5",
        ),
        ("cross_entropy", "cross_entropy", [1, 2], "the loss of 'main' .* its target is a list"),
        ("cross_entropy", "mse", {"target": INDEX, "mask": INDEX > 0}, "the loss of 'main' .* reads none"),
        (
            "mse",
            F.l1_loss,
            {"target": HOT, "mask": HOT > 0},
            "a mask, and the loss of 'side' .* what is masked would count",
        ),
    ],
)
def test_every_target_is_held_against_the_loss_that_reads_it(main: Any, side: Any, target: Any, message: str) -> None:
    edges = (Edge("main", loss=main), Edge("side", loss=side))
    found = {"main": torch.zeros(2, 3), "side": torch.zeros(2, 3)}
    with pytest.raises(HeadError, match=message):
        check_targets(edges, found, read(target, ("main", "side")))


def test_a_label_without_a_class_is_found_in_every_output() -> None:
    found = {"main": torch.zeros(2, 3), "side": torch.zeros(2, 2)}
    with pytest.raises(ClassCountError, match=r"labels 0\.\.2"):
        check_targets((Edge("main"), Edge("side")), found, read(INDEX, ("main", "side")))
    check_targets((Edge("main"),), found, read(INDEX, ("main", "side")))


def told(places: tuple[int, ...], target: Tensor, **options: Any) -> Any:
    scores = torch.randn(2, 3, *places, requires_grad=True)
    loss = options.pop("loss", "cross_entropy")
    return ds.Objective(loss=loss, classes_axis=1)(scores, target)


@pytest.mark.parametrize(
    ("places", "given", "says"),
    [
        ((8, 16), (16, 8), "scores of 8x16 .* over a target of 16x8, which seems to lie on its side"),
        ((4, 8), (16, 8), "scores of 4x8 .* over a target of 16x8"),
        ((8, 8), (8, 4), "scores of 8x8 .* over a target of 8x4, which no stride explains"),
        ((9,), (7,), "scores of 9 places over a target of 7"),
        ((9,), (10,), r"scores of 9 places over a target of 10.*shift=1"),
    ],
)
def test_targets_that_no_resizing_explains_are_refused(places: Any, given: Any, says: str) -> None:
    with pytest.raises(HeadError, match=says):
        told(places, torch.randint(0, 3, (2, *given)))
    for whole in ("mse", "l1"):
        with pytest.raises(HeadError, match=says):
            told(places, torch.randn(2, 3, *given), loss=whole)


@pytest.mark.parametrize(
    ("places", "given"),
    [((8, 16), (16, 32)), ((8, 8), (16, 16)), ((7, 13), (50, 100)), ((5,), (10,))],
)
def test_those_that_it_does_are_not(places: Any, given: Any) -> None:
    told(places, torch.randint(0, 3, (2, *given)))


def test_infinite_values_and_complex_numbers_are_named() -> None:
    target = torch.randn(2, 3)
    target[0, 1] = float("inf")
    with pytest.raises(HeadError, match="a target with 1 infinite ones"):
        told((), target, loss="mse")
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[0, 1] = False
    ds.Objective(loss="mse")(torch.randn(2, 3, requires_grad=True), {"target": target, "mask": mask})
    for loss in ("mse", "cross_entropy", "binary"):
        with pytest.raises(HeadError, match=r"reads no complex numbers.*Take target.real"):
            told((), torch.randn(2, 3).to(torch.complex64), loss=loss)
