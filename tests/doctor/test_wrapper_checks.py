"""Traps of what is around the model: DataParallel, DistributedDataParallel, torch.compile, taps without their net."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import deepsup as ds
from deepsup.layers.wrappers import clean
from tests.support.patients import SidePath, attached, examined, one_process, only
from tests.support.small_nets import CLASSES, Plain, Residual, images


def test_further_branches_for_a_net_that_has_some_are_a_finding() -> None:
    net = attached()
    only(examined(net, at=["relu2"]), "already-attached", "model", "Strip it first")
    assert not examined(net, plan=net.plan)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parameters_that_ddp_would_wait_for_in_vain_are_found() -> None:
    with one_process():
        found = examined(DistributedDataParallel(attached(SidePath())))
        only(found, "unused-parameters", "model", "requires_grad_(False)", "find_unused_parameters=True")
        assert "model.side.weight" in found.findings[0].what
        net = attached(SidePath())
        assert not examined(DistributedDataParallel(net, find_unused_parameters=True))
        net.model.side.requires_grad_(False)
        assert not examined(DistributedDataParallel(net))


in_one_process = pytest.mark.filterwarnings("ignore::FutureWarning")


def test_data_parallel_is_found_before_and_after_attaching() -> None:
    only(examined(nn.DataParallel(Plain()), at=["relu1"]), "data-parallel", "model", "DistributedDataParallel(")
    only(examined(nn.DataParallel(attached())), "data-parallel", "model", "DistributedDataParallel(")


def test_a_model_compiled_before_attaching_is_found() -> None:
    for model in (torch.compile(Plain()), _compiled_in_place(Plain())):
        only(
            examined(model, at=["relu1"]),
            "compiled-before-attach",
            "model",
            "torch.compile(deepsup.attach(model, plan))",
        )


def test_a_compiled_part_is_found_where_a_tap_would_lie_in_it_and_only_there() -> None:
    model = Residual()
    model.layer1 = torch.compile(model.layer1)  # type: ignore[assignment]
    for name in ("layer1", "layer1.0", "layer1._orig_mod.0"):
        only(
            examined(model, at=[name]), "compiled-before-attach", f"layer '{clean(name)}'", "Attach to the plain model"
        )
    assert not examined(model, at=["layer2"])
    plan = ds.plan(model, images(), at=["layer1._orig_mod.0"])
    only(
        examined(model, plan=plan), "compiled-before-attach", "layer 'layer1._orig_mod.0'", "Attach to the plain model"
    )


def _compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile()
    return model


@in_one_process
def test_heads_outside_of_ddp_are_found_however_they_got_there() -> None:
    with one_process():
        net = attached()
        found = examined(DistributedDataParallel(net.model))
        only(found, "head-outside-ddp", "model", "DistributedDataParallel(deepsup.attach(model, plan))")
        net.model = DistributedDataParallel(net.model)
        assert "relu1" in only(examined(net), "head-outside-ddp", "model", "Wrap what attach returned").what
        assert isinstance(net.model, DistributedDataParallel)


@in_one_process
def test_a_head_that_came_after_ddp_is_found() -> None:
    with one_process():
        net = attached()
        wrapped = DistributedDataParallel(net)
        net.heads._modules["relu1"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
        only(examined(wrapped), "head-outside-ddp", "branch 'relu1'", "once everything is in it")
        assert not examined(DistributedDataParallel(net))


@in_one_process
def test_a_search_for_unused_parameters_is_found_needless_or_clashing() -> None:
    with one_process():
        found = examined(DistributedDataParallel(attached(), find_unused_parameters=True))
        only(found, "unused-parameter-search", "model", "Leave it out", severity="warning")
        found = examined(DistributedDataParallel(attached().model, find_unused_parameters=True))
        assert found.codes == ("head-outside-ddp", "unused-parameter-search")
        assert "marked as ready only once" in found.findings[1].why


@in_one_process
def test_a_model_wrapped_before_attaching_is_found() -> None:
    with one_process():
        found = examined(DistributedDataParallel(Plain()), at=["relu1"])
        only(found, "wrapped-before-attach", "model", "Attach first, then wrap")


def test_a_sharded_model_is_looked_at_without_running_it() -> None:
    class FSDPPlain(Plain):  # as fully_shard names classes
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("it was run")

    only(examined(FSDPPlain(), at=["relu1"]), "wrapped-before-attach", "model", "Attach first, then wrap")
    assert not examined(FSDPPlain())


def test_the_tapped_model_without_its_heads_is_found() -> None:
    net = attached()
    only(examined(net.model), "bare-model", "model", "Train the net that deepsup.attach returned")
    assert not examined(net)
    assert not examined(ds.strip(net))
