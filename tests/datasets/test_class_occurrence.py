"""What is said of masks that hold nothing to learn: an error, or a warning that names the classes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from deepsup.datasets.class_occurrence import AbsentClassWarning, check_occurrences
from deepsup.errors import DatasetError


class Counted:
    """Stands in for pairs of image and mask: so many pixels of each class, the last those that do not count."""

    def __init__(self, *counts: int) -> None:
        self._counts = torch.tensor(counts) if counts else None

    def __len__(self) -> int:
        return 3

    def counts(self) -> torch.Tensor | None:
        return self._counts


def check(train: Any, validation: Any = None, names: Any = ("a", "b", "c"), **options: Any) -> None:
    full = torch.zeros(256, dtype=torch.int64)

    def whole(found: Counted | None) -> Any:
        found = found or Counted(5, 5, 5)
        if found._counts is not None:
            padded = full.clone()
            padded[: len(found._counts)] = found._counts
            found._counts = padded
        return found

    check_occurrences(whole(train), whole(validation), names, **options)


def test_masks_that_hold_every_class_are_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(Counted(3, 2, 1))
        check(Counted())  # too large to be looked at


def test_a_class_that_no_training_mask_has_is_named() -> None:
    with pytest.warns(AbsentClassWarning, match="class 'b' occurs in no training mask") as told:
        check(Counted(3, 0, 1))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (Counted(0, 0, 0), None, "no pixel of the 3 training masks counts"),
        (None, Counted(0, 0, 0), "no pixel of the 3 validation masks counts"),
        (Counted(4, 0, 0), None, "classes 'b', 'c' occur in no training mask.*With one class alone"),
    ],
)
def test_masks_without_anything_to_learn_are_refused(train: Any, validation: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        check(train, validation)
