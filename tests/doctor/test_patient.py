"""Who is who in wrappers, and that a look leaves no trace."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup.doctor.patient import Setup, opened
from deepsup.evaluation.loaders import overlapping
from deepsup.layers.taps import taps_on
from tests.support.laws import assert_same_state, state_of
from tests.support.patients import attached, examined
from tests.support.small_nets import CLASSES, Plain, Residual, images, labels


def test_no_trace_is_left_of_a_look_at_a_plain_model_an_attached_one_or_one_that_fails() -> None:
    class Failing(Plain):
        def forward(self, x: Tensor) -> Tensor:
            self.pool.seen = x  # type: ignore[assignment]
            super().forward(x)
            raise KeyError("no such thing")

    net = attached(Residual(), ["layer1"], head="cnds(width=4, hidden=8)")
    net.eval()
    patients: list[tuple[nn.Module, dict[str, Any]]] = [
        (Residual(), {"at": ["layer1", "bn1"]}),
        (net, {}),
        (net.model, {}),
        (Failing(), {"at": ["relu1"]}),
        (torch.compile(Plain()), {"at": ["relu1"]}),
        (nn.DataParallel(Plain()), {"at": ["relu1"]}),
    ]
    for model, options in patients:
        next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
        before, numbers = state_of(model), np.random.get_state()[1].tolist()  # type: ignore[index]
        modules, calls = list(model.modules()), net.calls
        examined(model, **options)
        assert_same_state(before, state_of(model))
        assert np.random.get_state()[1].tolist() == numbers  # type: ignore[index]
        assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
        assert net.calls == calls
    assert len(taps_on(net.model)) == 1


def test_no_trace_is_left_of_a_look_that_is_interrupted() -> None:
    class Impatient(nn.Module):
        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            self.count = 1
            random.random()
            raise KeyboardInterrupt

    loss, model = Impatient(), Residual()
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        examined(model, at=["layer1"], branch_loss=loss, loss=loss)
    assert_same_state(before, state_of(model))


def test_a_compiled_part_and_its_container_are_where_they_were() -> None:
    model = Residual()
    model.layer1 = torch.compile(model.layer1)  # type: ignore[assignment]
    there = model.layer1
    model.layer2.compile()
    examined(model, at=["layer1", "layer2"])
    assert model.layer1 is there
    assert model.layer2._compiled_call_impl is not None


def test_a_head_module_of_the_user_is_neither_run_nor_moved() -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)).eval()
    model = Plain()
    before = state_of(head)
    assert examined(model, at=["relu1"], head=head, batch_sizes=[4, 1]).codes == ("one-value-per-channel",)
    assert_same_state(before, state_of(head))
    assert next(head.parameters()).dtype == torch.float32


@pytest.mark.parametrize("method", ["dlb", "adaloss"])
def test_what_an_objective_remembers_is_not_moved(method: str) -> None:
    model = Residual()
    net = ds.attach(model, ds.plan(model, images(), method=method))
    objective, undisturbed = ds.Objective(net.plan), ds.Objective(net.plan)
    batches = list(overlapping([(images(4), labels(4).roll(k)) for k in range(4)]))
    model.eval()  # so that both see the same scores; taps are on by `supervising`
    with ds.supervising(net):
        for x, y in batches[:3]:
            assert_same_terms(objective(net(x), y), undisturbed(net(x), y))
        memory, before = objective.memory, vars(objective).copy()
        values = {name: value.clone() for name, value in memory.items()}
        assert values, "there is something to remember"
        x, y = batches[3]
        assert not ds.diagnose(net, x, y, objective=objective, batches=batches)
        assert objective.memory is memory
        assert all(torch.equal(memory[name], values[name]) for name in values)
        assert vars(objective) == before
        assert_same_terms(objective(net(x), y), undisturbed(net(x), y))


def assert_same_terms(one: ds.Terms, other: ds.Terms) -> None:
    assert torch.equal(one.total, other.total)
    assert {n: float(w) for n, w in one.weights.items()} == {n: float(w) for n, w in other.weights.items()}


def test_a_loss_of_a_branch_that_counts_its_calls_is_run_as_a_copy() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            self.calls += 1
            return nn.functional.cross_entropy(prediction, target)

    loss = Counting()
    assert not examined(Plain(), at=["relu1"], branch_loss=loss, loss=loss)
    assert loss.calls == 0


def test_a_setup_knows_who_is_who_in_wrappers() -> None:
    net = attached()
    model = net.model
    setup = Setup.of(torch.compile(net))
    assert (setup.net, setup.core) == (net, model)
    net.model = torch.compile(model)  # type: ignore[assignment]
    wrapped = net.model
    with pytest.raises(ZeroDivisionError):
        _fail_inside(net, model)
    assert net.model is wrapped


def _fail_inside(net: ds.Supervised, model: nn.Module) -> None:
    with opened(Setup.of(net)):
        assert net.model is model
        raise ZeroDivisionError
