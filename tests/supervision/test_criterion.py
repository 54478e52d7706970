"""A criterion gives what its objective's total is, wherever a function of (outputs, target) is expected."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

import deepsup as ds
from deepsup.errors import ConfigError
from tests.support.small_nets import images, labels
from tests.support.supervised_nets import supervised

X, Y = images(4), labels(4)


def test_it_is_the_total_of_the_objective_at_the_progress_that_is_said() -> None:
    net, now = supervised(weight="linear(0.4, 0)").train(), [0.25]
    criterion = ds.Criterion(net.plan, progress=lambda: now[0])
    out = net(X)
    loss, terms = criterion(out, Y), ds.Objective(net.plan)(out, Y, progress=0.25)
    assert torch.equal(loss, terms.total)
    assert criterion.scalars() == terms.scalars()
    assert criterion.terms is not None
    assert criterion.terms.weights == terms.weights
    assert not any(part.requires_grad for part in (criterion.terms.total, *criterion.terms.parts.values()))
    loss.backward()
    now[0] = 1.0
    assert float(criterion(net(X), Y).detach()) == pytest.approx(criterion.scalars()["main"])


def test_steps_are_counted_in_training_alone_and_kept_in_the_state() -> None:
    net = supervised(weight="linear(0.4, 0)").train()
    criterion = ds.Criterion(net.plan, steps=4)
    seen = []
    for _ in range(6):
        criterion(net(X), Y)
        seen.append(criterion.terms.weights["conv1"])
        with torch.no_grad():
            criterion(net(X), Y)
    assert seen == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    later = ds.Criterion(net.plan, steps=12)
    later.load_state_dict(pickle.loads(pickle.dumps(criterion.state_dict())))
    later(net(X), Y)
    assert later.terms.weights["conv1"] == pytest.approx(0.2)


def test_plain_outputs_of_evaluation_and_of_a_plain_model_have_the_main_loss() -> None:
    net = supervised(weight="linear(0.4, 0)")
    criterion = ds.Criterion(net.plan, steps=4)
    net.eval(), criterion.eval()
    with torch.no_grad():
        loss = criterion(net(X), Y)
    assert float(loss) == float(torch.nn.functional.cross_entropy(net.model(X), Y).detach())
    assert (list(criterion.scalars()), criterion.calls) == (["total", "main"], 0)
    plain = ds.Criterion()(net.model(X), Y)
    assert float(plain.detach()) == float(loss)
    assert ds.Criterion().scalars() == {}


def test_it_prints_the_formula_and_has_no_parameters() -> None:
    criterion = ds.Criterion(ds.Objective(supervised(weight=0.3).plan))
    assert "total = cross_entropy(main, y) + 0.3 * cross_entropy(conv1, y)" in repr(criterion)
    assert not list(criterion.parameters())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "found neither, with total = "),
        ({"steps": 3, "progress": lambda: 0.0}, "found both"),
        ({"steps": 0}, "1 or more; found 0"),
    ],
)
def test_progress_comes_from_one_place(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ds.Criterion(supervised(weight="linear(0.4, 0)").plan, **options)


def test_a_loss_beside_an_objective_is_refused() -> None:
    with pytest.raises(ConfigError, match="the objective has its losses"):
        ds.Criterion(ds.Objective(), loss="binary")
