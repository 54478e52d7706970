"""What an output is, in one record."""

from __future__ import annotations

import pytest
import torch

from deepsup import predictions
from deepsup.errors import ConfigError, OutputError
from deepsup.predictions import Prediction


def test_channels_are_brought_to_axis_1_and_back_as_views() -> None:
    x = torch.randn(2, 5, 7, 3)
    last = Prediction("class", -1, 3, 2, "said")
    first = last.first(x)
    assert first.shape == (2, 3, 5, 7) == last.first_shape(tuple(x.shape))
    assert first.data_ptr() == x.data_ptr()
    assert torch.equal(last.back(first), x)
    usual = Prediction("class", 1, 5, 2, "said")
    assert usual.first(x) is x
    assert usual.back(x) is x
    vector = Prediction("values", -1, 4, 0, "said")
    y = torch.randn(2, 4)
    assert vector.first(y) is y
    assert vector.back(y) is y


@pytest.mark.parametrize("shape", [(2, 12), (2, 6, 1), (2,)])
def test_an_output_of_another_width_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(OutputError, match=r"what was planned is 6 classes, \(N, 6\)"):
        Prediction("class", 1, 6, 0, "its shape").first(torch.zeros(shape))


@pytest.mark.parametrize(
    ("prediction", "text"),
    [
        (Prediction("class", -1, 9, 1, "the last Linear"), "9 classes on the last axis, (N, L, 9), by the last Linear"),
        (Prediction("class", 1, 9, 2, "classes_axis"), "9 classes on axis 1, (N, 9, H, W), by classes_axis"),
        (Prediction("class", 1, 1, 0, "its shape"), "1 class, (N, 1)"),
        (Prediction("labels", 1, 1, 0, "its shape"), "1 label, (N, 1)"),
        (Prediction("values", -1, 2, 3, "x"), "2 values on the last axis, (N, D, H, W, 2), by x"),
    ],
)
def test_it_prints_as_a_sentence(prediction: Prediction, text: str) -> None:
    assert str(prediction) == text
    assert Prediction(**prediction.to_dict()) == prediction


def test_a_task_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"there is no task 'label'\. Closest: labels"):
        predictions.word("label")


def test_labels_of_channels_last_may_have_an_axis_of_one_there() -> None:
    maps = Prediction("class", -1, 8, 2, "a test")
    labels = torch.randint(0, 8, (2, 8, 4, 1))  # as many rows as classes
    assert torch.equal(maps.first_target(labels), labels[..., 0])
    assert maps.first_target(labels.movedim(-1, 1)).shape == (2, 1, 8, 4)
