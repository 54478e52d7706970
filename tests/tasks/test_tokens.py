"""A label a token: classes on the last axis, and those that count."""

from __future__ import annotations

import pytest
import torch

from deepsup.evaluation.evaluate import evaluate
from deepsup.supervision.objectives import Objective


class Given(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_tokens_that_count_are_scored() -> None:
    scores = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]), 5).float()
    target = torch.tensor([[0, 1, 0, -100], [3, -100, 0, 0]])
    found = evaluate(Given(), [(scores, target)], objective=Objective())
    assert (found.metric, found.score) == ("token accuracy", {"main": pytest.approx(4 / 6)})


def test_a_sequence_of_one_token_is_one() -> None:
    scores, target = torch.eye(3)[:, None], torch.tensor([[0], [1], [0]])
    found = evaluate(Given(), [(scores, target)], objective=Objective(), metric="token accuracy")
    assert found.score == {"main": pytest.approx(2 / 3)}


def test_a_shifted_loss_is_scored_shifted() -> None:
    scores = torch.nn.functional.one_hot(torch.tensor([[1, 2, 3, 0]]), 5).float()
    target = torch.tensor([[0, 1, 2, 4]])
    found = evaluate(Given(), [(scores, target)], objective=Objective(loss="cross_entropy(shift=1)"))
    assert found.score["main"] == pytest.approx(2 / 3)
