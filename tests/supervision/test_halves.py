"""Two forwards of a batch that begins with the one before, against each half run by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup.evaluation.loaders import overlapping
from deepsup.supervision.halves import outputs_of
from tests.support.small_nets import images

CLASSES = 5


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES))


def batches() -> list[tuple[Tensor, Tensor]]:
    new = [(images(4) * (k + 1), (torch.arange(4) + k) % CLASSES) for k in range(3)]
    return list(overlapping(new))


@pytest.mark.parametrize("forwards", [1, 2])
def test_each_half_has_its_own_forward_the_new_one_first(forwards: int) -> None:
    model = net()
    model(images(4))
    objective = ds.Objective(ds.plan(model, images(2), method=f"dlb(forwards={forwards})"))
    theirs, ran = copy.deepcopy(model).train(), []

    def run(x: Tensor) -> Tensor:
        ran.append(len(x))
        return model.train()(x)  # type: ignore[no-any-return]

    for step, (x, y) in enumerate(batches()):
        ran.clear()
        out = outputs_of(run, objective, x, y)
        if forwards == 1 or not step:
            assert ran == [len(x)]
            expected = theirs(x)
        else:
            assert ran == [4, 4]
            new = theirs(x[4:])
            expected = torch.cat([theirs(x[:4]), new])
        assert torch.equal(out, expected)
        objective(out, y)
    for ours, other in zip(model.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(ours, other)


def test_any_structure_of_tensors_comes_back_in_the_order_of_the_batch() -> None:
    model = net()
    model(images(4))
    objective = ds.Objective(ds.plan(model, images(2), method="dlb"))
    (x, y), (twice, labels) = batches()[:2]
    objective(model(x), y)

    def run(given: dict[str, Any]) -> dict[str, Any]:
        return {"rows": given["x"].sum((1, 2, 3)), "pair": (given["x"], given["flag"])}

    out = outputs_of(run, objective, {"x": twice, "flag": True}, labels)
    assert torch.equal(out["pair"][0], twice)
    assert torch.equal(out["rows"], twice.sum((1, 2, 3)))
    assert out["pair"][1] is True


def test_an_epoch_that_begins_anew_has_one_forward() -> None:
    model = net()
    model(images(4))
    objective = ds.Objective(ds.plan(model, images(2), method="dlb"))
    x, y = batches()[0]
    objective(model(x), y)
    assert objective.repeated((y + 1) % CLASSES) == objective.repeated(y) == 0
    assert objective.repeated(y.repeat(2)) == 4
