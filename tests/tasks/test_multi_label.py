"""Several labels: average precision against scikit-learn, F1 and accuracy against counting."""

from __future__ import annotations

import pytest
import torch
from sklearn import metrics as sk

from deepsup.errors import ConfigError
from deepsup.evaluation.evaluate import evaluate
from deepsup.supervision.objectives import Objective
from deepsup.tasks.multi_label import LabelCounts


class Given(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_scores_are_those_of_scikit_learn_and_of_counting() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 3, generator=draw).mul(4).round() / 4  # with ties
    truth = torch.rand(40, 3, generator=draw) < 0.4
    truth[:, 2] = False
    found = evaluate(
        Given(), [(scores[:25], truth[:25]), (scores[25:], truth[25:].float())], objective=Objective(loss="binary")
    )
    expected = [sk.average_precision_score(truth[:, c].numpy(), scores[:, c].numpy()) for c in range(2)]
    assert found.metric == "mAP"
    assert found.score["main"] == pytest.approx(sum(expected) / 2, abs=1e-12)
    said = scores >= 0
    assert found.metrics["main"]["label accuracy"] == pytest.approx(float((said == truth).double().mean()))
    f1 = sk.f1_score(truth.numpy(), said.numpy(), average=None, zero_division=0)
    assert found.metrics["main"]["label F1"] == pytest.approx(f1.mean())


def test_one_logit_is_one_label() -> None:
    scores = torch.tensor([[2.0], [-1.0], [0.5], [-3.0]])
    truth = torch.tensor([1.0, 0, 0, 0])
    for target in (truth, truth[:, None]):
        found = evaluate(Given(), [(scores, target)], objective=Objective(loss="binary"), metric="label accuracy")
        assert found.score == {"main": 0.75}
    counted = evaluate(Given(), [(scores, truth.long())], objective=Objective(loss="binary"))
    assert (counted.metric, counted.score) == ("accuracy", {"main": 0.75})


def test_what_does_not_count_is_left_out() -> None:
    scores = torch.tensor([[2.0, -1.0], [-1.0, 3.0]])
    truth = torch.tensor([[1.0, float("nan")], [1.0, 1.0]])
    found = evaluate(Given(), [(scores, truth)], objective=Objective(loss="binary"), metric="label accuracy")
    assert found.score["main"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("places", [(40,), (8, 9), (3, 4, 5)])
def test_maps_have_the_average_precision_of_their_places(places: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    truth = (torch.rand(5, 3, *places, generator=draw) < 0.3).float()
    scores = torch.randn(5, 3, *places, generator=draw) * 3 + truth
    truth[:, 2] = truth[:, 2].clamp(max=0)  # which occurs nowhere
    truth[torch.rand(5, 3, *places, generator=draw) < 0.2] = float("nan")
    batches = [(scores[:2], truth[:2]), (scores[2:], truth[2:])]
    found = evaluate(Given(), batches, objective=Objective(loss="binary"))
    expected = []
    for c in range(2):
        known = ~truth[:, c].isnan()
        expected.append(sk.average_precision_score(truth[:, c][known].numpy(), scores[:, c][known].numpy()))
    assert found.metric == "mAP"
    assert found.score["main"] == pytest.approx(sum(expected) / 2, abs=1e-3)
    known = ~truth.isnan()
    right = ((scores >= 0) == (truth > 0.5))[known]
    assert found.metrics["main"]["label accuracy"] == pytest.approx(float(right.double().mean()))


@pytest.mark.parametrize("places", [(), (4, 5)])
def test_counts_of_processes_add_up(places: tuple[int, ...]) -> None:
    scores, truth = torch.randn(9, 2, *places), torch.rand(9, 2, *places) < 0.5
    whole, one, two = LabelCounts(), LabelCounts(), LabelCounts()
    known = torch.ones(9, 2, *places, dtype=torch.bool)
    whole.add(scores, truth, known)
    one.add(scores[:4], truth[:4], known[:4])
    two.add(scores[4:], truth[4:], known[4:])
    assert (one.cpu() + two.cpu()).metrics() == whole.metrics()


def test_a_metric_of_another_task_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"have no metric 'accuracy'.* They have: mAP, label F1, label accuracy"):
        evaluate(
            Given(), [(torch.zeros(2, 3), torch.ones(2, 3))], objective=Objective(loss="binary"), metric="accuracy"
        )
