"""A label a pixel: which targets, how outputs are brought to their size, and names that are safe as files."""

from __future__ import annotations

import pytest
import torch

from deepsup.supervision.objectives import Objective
from deepsup.tasks import TASKS
from deepsup.tasks.segmentation import safe


def test_it_takes_label_maps_alone() -> None:
    task = TASKS["segmentation"]
    assert task.takes(torch.zeros(2, 4, 4, dtype=torch.long), "class", 2)
    assert not task.takes(torch.tensor([1, 2]), "class", None)
    assert not task.takes(torch.zeros(2, 4, 4), "class", None)


def test_scores_of_a_smaller_map_are_counted_at_the_size_of_the_labels() -> None:
    scores = torch.zeros(1, 3, 2, 2)
    scores[:, 2] = 1.0
    target = torch.full((1, 8, 8), 2)
    target[0, 0] = -100
    target[0, 1] = 0
    counts: dict[str, object] = {}
    TASKS["segmentation"].add(counts, {"main": scores}, target, Objective(None))
    found = counts["main"].cpu().metrics()  # type: ignore[attr-defined]
    assert found["pixel accuracy"] == pytest.approx(48 / 56)
    assert found["mean IoU"] == pytest.approx((0 + 48 / 56) / 2)  # class 1 occurs nowhere


def test_names_of_outputs_become_names_of_files() -> None:
    assert safe("layer3/side 1") == "layer3_side_1"
    assert safe("late<-main") == "late_-main"
    assert safe("layer1.0") == "layer1.0"
