"""Traps of the layers that are tapped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from tests.support.patients import Checkpointed, PoolsItself, SidePath, among, attached, examined, only
from tests.support.small_nets import Plain, Residual, images


def test_an_unknown_layer_is_a_finding_and_the_other_layers_are_still_looked_at() -> None:
    found = examined(Residual(), at=["bn1", "layr2"])
    among(found, "unknown-layer", "layer 'layr2'", "Closest: layer2")
    among(found, "inplace-successor", "layer 'bn1'", "inplace=False", severity="warning")


def test_a_layer_that_runs_twice_is_a_finding_with_its_remedy() -> None:
    found = examined(Residual(), at=["layer1.0.relu"])
    only(found, "reused-layer", "layer 'layer1.0.relu'", "choose the block around it")
    assert not examined(Residual(), at=["layer1.0"])


def test_a_layer_that_never_runs_is_a_finding() -> None:
    model = Plain()
    model.spare = nn.Linear(3, 3)
    only(examined(model, at=["spare"]), "layer-not-called", "layer 'spare'", "Choose a layer that runs")


def test_reentrant_checkpointing_over_a_tap_is_a_finding_before_and_after_attaching() -> None:
    found = examined(Checkpointed(reentrant=True), at=["relu1"])
    only(found, "reentrant-checkpoint", "layer 'relu1'", "use_reentrant=False")
    assert not examined(Checkpointed(reentrant=False), at=["relu1"])
    net = attached(Checkpointed(reentrant=False), ["relu1"])
    net.model.reentrant = True
    only(examined(net), "reentrant-checkpoint", "layer 'relu1'", "use_reentrant=False")


def test_a_layer_without_a_graph_for_another_reason_is_unreadable() -> None:
    class Cut(Plain):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.relu1(self.conv1(x))
            return self.fc(self.pool(self.relu2(self.conv2(x))).flatten(1))

    only(examined(Cut(), at=["relu1"]), "unreadable-layer", "layer 'relu1'", "tap outside it")


def test_an_in_place_successor_is_found_with_what_the_copy_costs() -> None:
    found = examined(Residual(), at=["bn1"])
    what = only(found, "inplace-successor", "layer 'bn1'", "Tap the layer that follows", severity="warning").what
    assert what.endswith("keeps a copy of 1.02k bytes a sample")
    assert not examined(Residual(), at=["relu"])


def test_a_layer_that_is_overwritten_since_it_was_planned_is_an_error() -> None:
    net = attached(Plain(), ["conv1"])
    net.model.relu1.inplace = True
    found = examined(net)
    only(found, "inplace-successor", "layer 'conv1'", "plan and attach again", "inplace=False")
    net.model.relu1.inplace = False
    assert not examined(net)


def test_a_branch_on_a_side_path_is_found() -> None:
    found = examined(SidePath(), at=["side"])
    only(found, "side-path", "branch 'side'", "between the input and the prediction", severity="warning")


def test_a_branch_over_a_frozen_trunk_is_found() -> None:
    model = Plain()
    model.conv1.requires_grad_(False)
    only(examined(model, at=["relu1"]), "head-only", "branch 'relu1'", "Unfreeze", severity="warning")
    net = attached()
    net.model.conv1.requires_grad_(False)
    only(examined(net), "head-only", "branch 'relu1'", "requires_grad_(True)", severity="warning")
    net.model.conv1.requires_grad_(True)
    assert not examined(net)


def test_a_head_of_another_type_than_its_activation_is_found_outside_autocast() -> None:
    net = attached()
    net.model.bfloat16()
    x = images(4).bfloat16()
    found = ds.diagnose(net, x)
    only(found, "dtype-mismatch", "branch 'relu1'", "torch.autocast", severity="warning")
    assert found.findings[0].what == "layer 'relu1' gives bfloat16, its head computes in float32"
    with torch.autocast("cpu", torch.bfloat16):
        assert not ds.diagnose(attached(), images(4))
    assert not ds.diagnose(net.bfloat16(), x)


def test_a_layer_that_uses_its_own_output_is_found_and_the_layer_inside_is_not() -> None:
    where = ("layer-read-inside", "branch 'inner'", "Tap a layer inside it")
    only(examined(PoolsItself(), at=["inner"]), *where, severity="warning")
    assert not examined(PoolsItself(), at=["inner.conv"])


@pytest.mark.parametrize("rule", ["project", "pcgrad", "mgda", "equilibrium", lambda above, branch: above + branch])
def test_a_rule_that_weighs_what_it_cannot_see_is_an_error(rule: Any) -> None:
    found = examined(PoolsItself(), at=["inner"], gradient=rule)
    only(found, "layer-read-inside", "branch 'inner'", "Tap a layer inside")
    assert not examined(PoolsItself(), at=["inner.conv"], gradient=rule)
