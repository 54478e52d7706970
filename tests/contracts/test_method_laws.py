"""The laws hold for every method, whatever branches and terms it brings."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup import networks, schedules
from deepsup.methods import METHODS
from deepsup.settings import training
from deepsup.settings.section import check
from deepsup.training import runs
from tests.support import tiny_runs
from tests.support.laws import assert_same_state, mixed_flags, state_of
from tests.support.tiny_maps import is_for_maps, maps, segmenter

CLASSES = 5
BRANCHED = [m.name for m in METHODS.values() if not m.bare]


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return segmenter(name) if is_for_maps(name) else networks.build("deepsup:resnet-8", classes=CLASSES)


def images(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def targets(name: str) -> Tensor:
    return maps(6, method=name)[1] if is_for_maps(name) else torch.tensor([0, 1, 2, 0, 1, 2])


def planned(model: nn.Module, name: str) -> ds.Plan:
    at = None if METHODS[name].places else ["layer1", "layer2"]
    return ds.plan(model, images(), at, method=name)


@pytest.mark.parametrize("name", BRANCHED)
def test_planning_and_stripping_leave_no_trace(name: str) -> None:
    model = built(name)
    mixed_flags(model)
    before = state_of(model)
    plan = planned(model, name)
    assert_same_state(before, state_of(model))
    net = ds.attach(model, plan)
    assert ds.is_supervised(net)
    assert ds.is_supervised(model)
    assert ds.strip(net) is model
    assert_same_state(before, state_of(model))
    assert not ds.is_supervised(model)


@pytest.mark.parametrize("name", [n for n in BRANCHED if n != "equilibrium"])  # whose rule is a change by itself
def test_with_all_weights_zero_a_method_trains_the_plain_model_bit_for_bit(name: str) -> None:
    plain, model = built(name).train(), built(name).train()
    plan = planned(model, name)
    zero = schedules.constant(0)
    nothing = replace(
        plan,
        main_weight=1.0,  # where a method's weights sum to 1, main has less
        branches=tuple(replace(b, weight=zero) for b in plan.branches),
        edges=tuple(replace(e, weight=zero) for e in plan.edges),
    )
    net = ds.attach(model, nothing)
    objective, alone = ds.Objective(nothing), ds.Objective(loss=plan.main_loss)
    ours = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    y = targets(name)
    torch.manual_seed(5)
    for _ in range(3):
        x = torch.randn(6, 3, 16, 16)
        ours.zero_grad()
        objective(net(x), y, progress=0.3).total.backward()
        ours.step()
        theirs.zero_grad()
        alone(plain(x), y).total.backward()
        theirs.step()
    for (key, p), q in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(p, q), key
    silent = [p for p in net.heads.parameters() if p.requires_grad and p.grad is None]
    assert not silent, "DistributedDataParallel needs a gradient for every parameter of a head"


@pytest.mark.parametrize("name", BRANCHED)
def test_in_eval_mode_no_head_runs_and_the_answer_is_the_plain_models(name: str) -> None:
    model, x = built(name).eval(), images(4)
    expected = model(x)
    net = ds.attach(model, planned(model, name)).eval()
    for _, head in net.heads.items():
        head.register_forward_hook(lambda *_: pytest.fail("a head ran in eval mode"))
    assert torch.equal(net(x), expected)


@pytest.mark.parametrize("name", BRANCHED)
def test_a_net_survives_copying_pickling_and_loading(name: str) -> None:
    model = built(name)
    net = ds.attach(model, planned(model, name)).eval()
    x = images(4)

    def outputs(net: nn.Module) -> ds.Outputs:
        with torch.no_grad(), ds.supervising(net):
            return net(x)  # type: ignore[no-any-return]

    expected = outputs(net)
    fresh = built(name)
    loaded = ds.attach(fresh, ds.Plan.from_dict(net.plan.to_dict())).eval()
    loaded.load_state_dict(net.state_dict())
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), loaded):
        found = outputs(other)
        assert torch.equal(found.main, expected.main)
        assert list(found.aux) == list(expected.aux) == list(net.plan.outputs)
        for key in found.aux:
            assert torch.equal(found.aux[key], expected.aux[key]), key


class Stopped(Exception):
    """A run that was cut off."""


@pytest.mark.parametrize("name", ["dhm(dynamic=True)", "dlb", "adaloss", "one", "dml", "cds", "dsn"])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(name: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "model": "deepsup:resnet-8",
        "data": {"limit": 64, "overlap": name == "dlb", "views": 2 if name == "cds" else 1, "size": 16},
        "checkpoint": {"every_steps": 3},
        "log": {"every": 1, "conflict": False, "gradients": 0},
    }
    changes["data"]["augment"] = "standard" if name == "cds" else "none"

    def config(folder: str) -> training.TrainConfig:
        data = tiny_runs.settings(tmp_path / folder, **changes)
        return check(training.TrainConfig, {**data, "supervise": {"method": name}}, where="test")

    def cut(record: dict[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == 5:
            raise Stopped

    runs.train(config("whole"))
    with pytest.raises(Stopped):
        runs.train(config("cut"), on_record=cut)
    assert runs.train(config("cut")).resumed
    whole, again = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("whole", "cut"))
    assert whole == again
