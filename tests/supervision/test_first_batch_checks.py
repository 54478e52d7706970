"""What an objective sees in its first batch."""

from __future__ import annotations

import warnings

import pytest
import torch

from deepsup.errors import ConfigError
from deepsup.losses.resizing import LostClassesWarning
from deepsup.supervision.first_batch_checks import check_crops, warn_of_lost
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
