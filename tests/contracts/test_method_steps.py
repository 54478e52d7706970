"""A method's step stays one graph and never waits for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import deepsup as ds
from deepsup.methods import METHODS
from tests.support.method_steps import Case, Step

# Each reads a number off the device, or makes a tensor whose size only the device knows.
WAITS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::nonzero",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
}


class Watch(TorchDispatchMode):
    """Counts operations that make a host wait for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in WAITS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def steps(case: Case | Step) -> Tensor:
    total: Tensor = case.objective(case.net(case.x), case.y, progress=0.5).total
    return total


def started(name: str) -> Case | Step:
    """A case whose checks of the first steps are over."""
    method = METHODS[name]
    if method.maps:
        step = Step(name)
        steps(step).backward()
        return step
    case = Case(name, None if method.bare or method.places else ["layer1", "layer2"])
    if method.overlap:
        case.y = torch.tensor([0, 1, 2, 0, 1, 2])  # its second half is the next batch's first
        case.objective(case.net(case.x[:3]), case.y[:3])
        for _ in range(5):
            steps(case).backward()
    else:
        steps(case).backward()
    return case


def test_the_watch_sees_a_host_that_waits() -> None:
    with Watch() as watch:
        float(torch.ones(3).sum())
        torch.equal(torch.ones(2), torch.ones(2))
    assert len(watch.found) == 2


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"equal-compute"}))
def test_no_step_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepsup.losses.labels.FREE_TO_LOOK", ())  # as on a GPU
    case = started(name)
    with Watch() as watch:
        steps(case).backward()
    assert watch.found == []


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"dlb", "none", "label-smoothing", "equal-compute"}))
def test_net_and_objective_are_one_graph(name: str) -> None:
    case = started(name)
    if name == "adaloss":
        case.objective.memory = {}
    expected = steps(case).detach()
    counter = torch._dynamo.testing.CompileCounter()
    whole = torch.compile(
        lambda x, y: case.objective(case.net(x), y, progress=0.5).total, backend=counter, fullgraph=True
    )
    if name == "adaloss":
        case.objective.memory = {}
    assert torch.allclose(whole(case.x, case.y).detach(), expected, rtol=1e-9)
    assert counter.frame_count == 1
    torch._dynamo.reset()
    assert ds.is_supervised(case.net)


@pytest.mark.parametrize("name", ["aux", "dhm", "hed", "nnunet", "one"])  # a kind of branches each
def test_a_compiled_net_stays_outside_an_objective_that_is_not(name: str) -> None:
    case = started(name)
    expected = steps(case).detach()
    counter = torch._dynamo.testing.CompileCounter()
    net = torch.compile(case.net, backend=counter, fullgraph=True)
    found = case.objective(net(case.x), case.y, progress=0.5).total.detach()
    assert torch.allclose(found, expected, rtol=1e-9)
    assert counter.frame_count == 1
    torch._dynamo.reset()
