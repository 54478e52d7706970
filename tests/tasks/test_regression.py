"""Real values: errors and R² against scikit-learn, with holes, over batches and processes."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn import metrics as sk

from deepsup.evaluation.evaluate import evaluate
from deepsup.supervision.objectives import Objective
from deepsup.tasks import better
from deepsup.tasks.regression import Errors


class Given(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_errors_are_those_of_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    said = 1000 + torch.randn(30, 3, generator=draw, dtype=torch.float64)
    true = said + torch.randn(30, 3, generator=draw, dtype=torch.float64) * torch.tensor([0.1, 0.5, 2])
    found = evaluate(Given(), [(said[:11], true[:11]), (said[11:], true[11:])], objective=Objective(loss="mse"))
    assert found.metric == "R²"
    assert found.score["main"] == pytest.approx(sk.r2_score(true, said), abs=1e-9)
    assert found.metrics["main"]["MAE"] == pytest.approx(sk.mean_absolute_error(true, said))
    assert found.metrics["main"]["RMSE"] == pytest.approx(math.sqrt(sk.mean_squared_error(true, said)))
    assert found.loss["main"] == pytest.approx(sk.mean_squared_error(true, said))


def test_holes_do_not_count_and_one_channel_needs_no_axis() -> None:
    said = torch.tensor([[1.0], [2.0], [5.0]])
    true = torch.tensor([1.5, math.nan, 4.0])
    found = evaluate(Given(), [(said, true)], objective=Objective(loss="l1"), metric="MAE")
    assert found.score == {"main": pytest.approx(0.75)}
    assert found.loss["main"] == pytest.approx(0.75)


def test_values_of_a_smaller_map_are_enlarged() -> None:
    found = evaluate(
        Given(), [(torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 4, 4))], objective=Objective(loss="mse"), metric="MAE"
    )
    assert found.score["main"] == pytest.approx(2)


def test_counts_of_processes_add_up() -> None:
    said, true = torch.randn(9, 2) + 50, torch.randn(9, 2) + 50
    whole, one, two, ones = Errors(), Errors(), Errors(), torch.ones(9, 2)
    whole.add(said, true, ones)
    one.add(said[:4], true[:4], ones[:4])
    two.add(said[4:], true[4:], ones[4:])
    for both in (one.cpu() + two.cpu(), two.cpu() + one.cpu(), Errors() + whole):
        assert both.metrics() == pytest.approx(whole.metrics())


def test_a_constant_has_no_variance_to_tell() -> None:
    counts = Errors()
    counts.add(torch.zeros(3, 1), torch.full((3, 1), 7.0), torch.ones(3, 1))
    assert counts.metrics()["R²"] is None


def test_less_error_is_better() -> None:
    assert better("MAE", 1.0, 2.0)
    assert not better("MAE", 2.0, 1.0)
    assert better("R²", 0.5, 0.4)
    assert better("R²", -3.0, None)


def test_what_is_masked_is_in_no_score() -> None:
    said, true = torch.tensor([[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]]), torch.tensor([[1.5, 9e6], [3.0, 4.0], [-9e6, 2.0]])
    mask = torch.tensor([[1, 0], [1, 1], [0, 1]])
    batches = [(said[:2], {"target": true[:2], "mask": mask[:2]}), (said[2:], {"target": true[2:], "mask": mask[2:]})]
    found = evaluate(Given(), batches, objective=Objective(loss="l1"))
    assert found.metrics["main"]["MAE"] == pytest.approx((0.5 + 0 + 1 + 2) / 4)
    assert found.loss["main"] == pytest.approx((0.5 + 0 + 1 + 2) / 4)
    assert found.samples == 3


def test_distances_of_a_smaller_map_grow_with_it() -> None:
    flow = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 2, 4).contiguous()
    truth = torch.tensor([2.0, 6.0]).view(1, 2, 1, 1).expand(1, 2, 6, 8).contiguous()  # twice as wide, thrice as high
    found = evaluate(Given(), [(flow, truth)], objective=Objective(loss="mse(flow=True)"), metric="MAE")
    assert found.score["main"] == pytest.approx(0)
    assert found.loss["main"] == pytest.approx(0)
