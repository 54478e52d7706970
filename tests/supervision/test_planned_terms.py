"""What an objective takes from a plan."""

from __future__ import annotations

import pytest
import torch

import deepsup as ds
from deepsup.errors import ConfigError, OutputError
from deepsup.supervision.planned_terms import edges_of, predictions_of
from tests.support.small_nets import Plain, images


def test_branches_with_mains_loss_have_the_one_that_takes_its_place() -> None:
    plan = ds.plan(Plain(), images(), at=["conv1", "relu2"], branch_loss={"relu2": "squared_hinge"})
    assert [e.loss for e in edges_of(plan, "cross_entropy(smoothing=0.1)")] == [
        "cross_entropy(smoothing=0.1)",
        "squared_hinge",
    ]
    assert edges_of(None, "mse") == ()


def test_every_output_is_known_and_a_loss_of_another_kind_is_refused() -> None:
    plan = ds.plan(Plain(), images(), at=["conv1"])
    assert {name: p.kind for name, p in predictions_of(plan, "cross_entropy").items()} == {
        "main": "class",
        "conv1": "class",
    }
    assert predictions_of(None, "mse") == {}
    for loss in ("mse", torch.nn.BCEWithLogitsLoss()):
        with pytest.raises(ConfigError, match="Say it when planning"):
            predictions_of(plan, loss)


def test_a_whole_output_that_is_one_tensor_is_handed_over_as_it_is() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 1))
    seen: list[torch.Tensor] = []

    def own(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(output)
        return output.square().mean()

    plan = ds.plan(net, images(), at=["1"], main="*", loss=own, branch_loss="cross_entropy", head="fcn", classes=5)
    outputs = ds.attach(net, plan)(images())
    terms = ds.Objective(plan)(outputs, torch.zeros(2, 14, 14, dtype=torch.long))
    assert seen[-1] is outputs.main
    assert terms.parts["main"] == outputs.main.square().mean()
    assert set(predictions_of(plan, own)) == {"1"}


@pytest.mark.parametrize("axis", [1, -1])
def test_an_axis_is_said_where_there_is_no_plan(axis: int) -> None:
    scores, labels = torch.randn(2, 5, 5), torch.randint(0, 5, (2, 5))
    with pytest.raises(OutputError, match=r"Objective\(classes_axis=1\), or -1"):
        ds.Objective()(scores, labels)
    total = float(ds.Objective(classes_axis=axis)(scores, labels).total)
    rows = [(scores[n, :, at] if axis == 1 else scores[n, at], labels[n, at]) for n in range(2) for at in range(5)]
    assert total == pytest.approx(float(sum(-s.log_softmax(0)[y] for s, y in rows)) / len(rows), rel=1e-5)
    for plan, said in ((ds.plan(Plain(), images(), at=["conv1"]), 1), (None, 2)):
        with pytest.raises(ConfigError, match=f"classes_axis={said}: an objective without a plan"):
            ds.Objective(plan, classes_axis=said)
