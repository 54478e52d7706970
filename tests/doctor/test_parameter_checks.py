"""Traps of the parameters: frozen, in half precision, or not held by the optimiser."""

from __future__ import annotations

import torch

import deepsup as ds
from tests.support.patients import among, attached, examined, only
from tests.support.small_nets import Plain, images


def test_heads_that_the_optimiser_lacks_are_found() -> None:
    model = Plain()
    early = torch.optim.SGD(model.parameters(), lr=0.1)
    only(
        examined(model, at=["relu1"], optimizer=early), "head-not-in-optimizer", "optimizer", "Make the optimiser after"
    )
    net = attached(model)
    only(examined(net, optimizer=early), "head-not-in-optimizer", "branch 'relu1'", "deepsup.parameter_groups(net")
    assert not examined(net, optimizer=torch.optim.SGD(ds.parameter_groups(net, lr=0.1)))


def test_heads_that_learn_faster_than_their_method_needs_are_found() -> None:
    model = Plain()
    net = ds.attach(model, ds.plan(model, images(), ["relu1"], method="dsn"))
    found = ds.diagnose(
        net, images(), torch.arange(len(images())) % 5, optimizer=torch.optim.SGD(net.parameters(), lr=0.1)
    )
    assert "heads-too-fast" in {f.code for f in found}
    good = torch.optim.SGD(ds.parameter_groups(net, lr=0.1))
    found = ds.diagnose(net, images(), torch.arange(len(images())) % 5, optimizer=good)
    assert "heads-too-fast" not in {f.code for f in found}


def test_an_optimiser_of_another_model_is_found() -> None:
    foreign = torch.optim.SGD(Plain().parameters(), lr=0.1)
    only(examined(Plain(), optimizer=foreign), "foreign-optimizer", "optimizer", "for this very net")


def test_parameters_of_the_model_that_the_optimiser_lacks_are_counted_and_the_fix_helps() -> None:
    model = Plain()
    found = examined(model, optimizer=torch.optim.SGD(model.fc.parameters(), lr=0.1))
    where = ("parameters-not-in-optimizer", "optimizer")
    what = only(found, *where, "deepsup.parameter_groups(net", "requires_grad_(False)", severity="warning").what
    assert what == "the optimiser lacks 4 of 6 trainable parameters of the model (conv1.weight, ...)"
    assert not examined(model, optimizer=torch.optim.SGD(ds.parameter_groups(model, lr=0.1)))
    model.conv1.requires_grad_(False)
    model.conv2.requires_grad_(False)
    assert not examined(model, optimizer=torch.optim.SGD(model.fc.parameters(), lr=0.1))


def test_a_model_in_which_nothing_can_be_trained_is_found() -> None:
    model = Plain().requires_grad_(False)
    found = examined(model)
    assert "all 6 parameters" in only(found, "nothing-trainable", "model", "model.requires_grad_(True)").what
    assert not examined(model.requires_grad_(True))
    among(examined(attached().requires_grad_(False)), "nothing-trainable", "model")
    assert examined(attached(model.requires_grad_(False))).codes == ("head-only",), "its heads learn"


def test_float16_weights_are_found_and_bfloat16_ones_are_not() -> None:
    half = attached().half()
    found = ds.diagnose(half, images(4).half())
    only(found, "half-weights", "model, branch 'relu1'", "torch.autocast with a GradScaler", severity="warning")
    assert not ds.diagnose(attached().bfloat16(), images(4).bfloat16())


def test_a_frozen_head_is_found() -> None:
    net = attached()
    net.heads.requires_grad_(False)
    only(examined(net), "frozen-head", "branch 'relu1'", "requires_grad_(True)", severity="warning")
