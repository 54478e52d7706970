"""What `plan` would refuse, branch by branch."""

from __future__ import annotations

from torch import nn

import deepsup as ds
from tests.support.patients import among, attached, examined, only
from tests.support.small_nets import CLASSES, Plain, Residual, images


def test_heads_losses_and_settings_that_do_not_fit_are_findings_by_branch() -> None:
    def broken(feature: ds.Feature, classes: int) -> nn.Module:
        raise ZeroDivisionError("nothing left")

    found = examined(Plain(), at=["relu1", "relu2"], head={"relu1": "token", "relu2": broken})
    among(found, "head-unfit", "branch 'relu1'", "'pool'")
    assert "nothing left" in among(found, "head-unfit", "branch 'relu2'").what
    found = examined(Plain(), at=["relu1"], weight="linear(0.3")
    only(found, "bad-setting", "branch 'relu1'", "Write a number or one of")
    shared = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(CLASSES))
    found = examined(Plain(), at=["relu1"], head=shared)
    only(found, "head-unfit", "branch 'relu1'", "Give its layers their sizes")


def test_what_only_all_branches_together_do_wrong_is_a_finding() -> None:
    found = examined(Residual(), at=["layer1.0", "layer1.1"], head=head_of(4))
    only(found, "head-unfit", "plan", "makes a new one for each")
    assert not examined(Residual(), at=["layer2"], head=head_of(8))


def head_of(width: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def test_a_plan_of_another_model_or_a_layer_that_is_gone_is_a_finding() -> None:
    plan = ds.plan(Residual(), images(), at=["layer1"])
    only(examined(Plain(), plan=plan), "foreign-plan", "plan", "Plan again")
    assert not examined(Residual(), plan=plan)
    net = attached()
    net.model.relu1 = nn.ReLU()
    found = examined(net)
    assert "did not fire" in only(found, "forward-failed", "model", "Plan and attach again").what
