"""A label a token: classes on the last axis, and those that count."""

from __future__ import annotations

import pytest
import torch

import deepsup as ds
from deepsup.errors import HeadError
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


@pytest.mark.parametrize("shape", [(2, 4), (2, 1, 4), (2, 4, 1)])
def test_an_axis_of_one_makes_no_map_of_a_sequence(shape: tuple[int, ...]) -> None:
    net = torch.nn.Sequential(torch.nn.Embedding(6, 5), torch.nn.Linear(5, 5))
    x, target = torch.randint(0, 6, (2, 4)), torch.randint(0, 5, (2, 4))
    plan = ds.plan(net, x, method="none", task="tokens")
    found = evaluate(net, [(x, target.view(shape))], objective=Objective(plan))
    assert (found.metric, found.samples) == ("token accuracy", 2)
    assert found.score["main"] == pytest.approx(float((net(x).argmax(-1) == target).double().mean()))


def test_scores_of_every_second_token_are_held_against_all_as_their_loss_does() -> None:
    scores = torch.nn.functional.one_hot(torch.tensor([[0, 3]]), 5).float().transpose(1, 2)
    found = evaluate(Given(), [(scores, torch.tensor([[0, 0, 3, 3]]))], objective=Objective(classes_axis=1))
    assert found.score == {"main": 1.0}


def test_indices_held_against_each_class_by_itself_are_those_of_tokens() -> None:
    scores = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]), 5).float()
    target = torch.tensor([[0, 1, 0, -100], [3, -100, 0, 0]])
    found = evaluate(Given(), [(scores, target)], objective=Objective(loss="binary", classes_axis=-1))
    assert (found.metric, found.score) == ("token accuracy", {"main": pytest.approx(4 / 6)})


def test_a_head_that_pools_is_refused_with_the_one_that_does_not() -> None:
    net = torch.nn.Sequential(torch.nn.Embedding(6, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 5))
    x = torch.randint(0, 6, (2, 4))
    with pytest.raises(HeadError, match="as many classes: tokenwise"):
        ds.plan(net, x, ["1"], task="tokens", head="pool")
    ds.plan(net, x, ["1"], task="tokens", head="tokenwise")
