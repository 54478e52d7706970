"""Traps that show without running anything: wrappers, compiled parts, optimiser, weights, costs, precision."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import deepsup as ds
from deepsup import gradients, networks
from deepsup.doctor.patient import Setup, clean, opened
from tests.support.patients import among, attached, examined, one_process, only
from tests.support.small_nets import CLASSES, Plain, Residual, images, mlp

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


def test_heads_that_the_optimiser_lacks_are_found() -> None:
    model = Plain()
    early = torch.optim.SGD(model.parameters(), lr=0.1)
    only(
        examined(model, at=["relu1"], optimizer=early), "head-not-in-optimizer", "optimizer", "Make the optimiser after"
    )
    net = attached(model)
    only(examined(net, optimizer=early), "head-not-in-optimizer", "branch 'relu1'", "deepsup.parameter_groups(net")
    assert not examined(net, optimizer=torch.optim.SGD(ds.parameter_groups(net, lr=0.1)))


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


def broken(above: Tensor, branch: Tensor) -> Tensor:
    raise ZeroDivisionError("no length")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda above, branch: None, "returned NoneType"),
        (lambda above, branch: above.sum(), "returned a tensor of shape ()"),
        (lambda above, branch: above * math.nan, "gives NaN"),
        (broken, "its gradient rule custom:broken fails: ZeroDivisionError: no length"),
    ],
)
def test_a_gradient_rule_that_would_stop_the_backward_pass_is_found(rule: gradients.Custom, words: str) -> None:
    found = examined(Plain(), at=["relu2"], gradient=rule)
    assert words in only(found, "gradient-unusable", "branch 'relu2'", "return above + branch").what
    assert words in only(examined(attached(gradient=rule)), "gradient-unusable", "branch 'relu1'").what


def test_a_gradient_rule_that_works_is_called_without_leaving_a_trace() -> None:
    class Counting:
        calls = 0

        def __call__(self, above: Tensor, branch: Tensor) -> Tensor:
            self.calls += 1
            assert above.shape == branch.shape
            return above + torch.rand(()) * branch

    rule = Counting()
    net = attached(gradient=rule)
    before = torch.random.get_rng_state()
    assert not ds.diagnose(net, torch.ones(4, 3, 16, 16))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert rule.calls == 0, "a copy is called"


@pytest.mark.parametrize("rule", ["scale(-1)", "scale(linear(1, -0.5))"])
def test_a_factor_that_turns_the_gradient_round_is_found(rule: str) -> None:
    found = examined(Plain(), at=["relu2"], gradient=rule)
    only(found, "gradient-unusable", "branch 'relu2'", "gradient='scale(0.5)'", severity="warning")
    for harmless in ("scale(0.5)", "warmup(0.2)", "project", "mgda", "detach"):
        assert not examined(Plain(), at=["relu2"], gradient=harmless)


def test_a_factor_that_is_no_number_is_found() -> None:
    found = examined(Plain(), at=["relu2"], gradient=gradients.scale(lambda p: math.inf))
    only(found, "gradient-unusable", "branch 'relu2'", "a finite number for every progress")


@pytest.mark.parametrize("weight", [0, "until(constant(0), 0.5)", lambda progress: 0.0])
def test_a_weight_that_is_zero_throughout_is_found(weight: object) -> None:
    found = examined(Plain(), at=["relu2"], weight=weight)
    only(found, "weight-always-zero", "branch 'relu2'", "weight=0.3", severity="warning")


@pytest.mark.parametrize("weight", ["linear(0.3, -0.1)", lambda p: math.nan, lambda p: 1 / (p - 0.5)])
def test_a_weight_that_is_negative_or_no_number_is_found(weight: object) -> None:
    found = examined(Plain(), at=["relu2"], weight=weight)
    only(found, "weight-unusable", "branch 'relu2'", "finite numbers from 0 up")


def test_weights_that_start_or_end_at_zero_are_fine() -> None:
    for weight in ("linear(0.3, 0)", "warmup(constant(0.3), 0.2)", "until(constant(0.3), 0.1)"):
        assert not examined(Plain(), at=["relu2"], weight=weight)


def test_an_objective_with_branches_for_a_model_that_was_never_attached_is_found() -> None:
    model = Plain()
    objective = ds.Objective(ds.plan(model, images(), at=["relu2"]))
    only(examined(model, objective=objective), "loss-without-branch", "branch 'relu2'", "the net was attached with")


def test_branches_and_losses_that_miss_each_other_are_found() -> None:
    net = attached(at=["relu1"])
    other = ds.plan(Plain(), images(), at=["relu2"])
    found = examined(net, objective=ds.Objective(other))
    assert [(f.code, f.where) for f in found] == [
        ("branch-without-loss", "branch 'relu1'"),
        ("loss-without-branch", "branch 'relu2'"),
    ]
    assert all("Objective(net.plan)" in f.fix for f in found)
    only(examined(net, objective=ds.Objective()), "branch-without-loss", "branch 'relu1'", "Objective(net.plan)")
    assert not examined(net, objective=ds.Objective(net.plan))


def test_a_branch_dearer_than_the_model_is_found() -> None:
    found = examined(Plain(), at=["relu1"], head="cnds(hidden=64)")
    only(found, "dear-branch", "branch 'relu1'", "head='pool'", severity="warning")
    assert "parameters to the model's" in found.findings[0].what
    assert not examined(Plain(), at=["relu1"], head="pool")


def test_the_big_heads_that_a_method_brings_are_not_called_dear() -> None:
    net = small_resnet()
    x, y = torch.randn(4, 1, 16, 16), torch.arange(4)
    for method in ("cnds", "cnds-released", "googlenet", "googlenet(bn=True)", "dsl", "dks", "dhm(temperature=2)"):
        plan = ds.plan(net, x, at=["layer2"] if "cnds" in method else None, method=method)
        assert any(b.params > plan.params for b in plan.branches), "there is something to be silent about"
        assert not ds.diagnose(net, x, y, plan=plan)
    peer = "network(name='deepsup:resnet-14')"
    plan = ds.plan(net, x, method="dml", head=peer)
    assert plan.branches[0].params > plan.params
    assert not ds.diagnose(net, x, y, plan=plan)


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("aux", "cnds"),
        ("aux", "continuation(width=3)"),
        ("cnds", "cnds(hidden=2048)"),
        ("cnds", "googlenet"),
        ("dsl", "googlenet"),
        ("dml-of-another-version", "cnds"),
    ],
)
def test_a_big_head_that_the_method_did_not_ask_for_is_dear(method: str, head: str) -> None:
    net = small_resnet()
    x, y = torch.randn(4, 1, 16, 16), torch.arange(4)
    plan = ds.plan(net, x, at=["layer2"], method=method if "-of-" not in method else "aux", head=head)
    found = ds.diagnose(net, x, y, plan=replace(plan, method=method))
    only(found, "dear-branch", "branch 'layer2'", "head='pool'", severity="warning")


def small_resnet() -> nn.Module:
    return networks.build("deepsup:resnet-8", classes=10, in_channels=1, size=16)


def test_a_weight_that_follows_its_loss_is_no_constant_weight() -> None:
    deep = mlp(*[16] * 8, CLASSES)
    x, y = torch.randn(4, 16), torch.arange(4)
    assert not ds.diagnose(deep, x, y, at=["1"], weight="adaptive(0.9)")
    assert not ds.diagnose(deep, x, y, at=["1"], method="adaloss")
    only(ds.diagnose(deep, x, y, at=["1"], weight=1), "early-heavy-branch", "branch '1'", severity="warning")


def test_a_schedule_that_counts_its_calls_is_asked_as_a_copy() -> None:
    class Counting:
        calls = 0

        def __call__(self, progress: float) -> float:
            self.calls += 1
            return 0.3

    weight = Counting()
    net = attached(at=["relu1"], weight=weight)
    assert not examined(net)
    assert not examined(net, objective=ds.Objective(net.plan))
    assert weight.calls == 0


def test_an_early_light_branch_with_a_heavy_constant_weight_is_found() -> None:
    deep = mlp(*[16] * 8, CLASSES)
    x, y = torch.randn(4, 16), torch.arange(4)
    found = ds.diagnose(deep, x, y, at=["1"], weight=0.5)
    only(found, "early-heavy-branch", "branch '1'", "weight='linear(0.3, 0)'", "'cnds'", severity="warning")
    for harmless in ({"weight": 0.4}, {"weight": "linear(1, 0)"}, {"gradient": "scale(0.1)", "weight": 0.5}):
        assert not ds.diagnose(deep, x, y, at=["1"], **harmless)
    assert not ds.diagnose(deep, x, y, at=["9"], weight=0.5)


def test_float16_weights_are_found_and_bfloat16_ones_are_not() -> None:
    half = attached().half()
    found = ds.diagnose(half, images(4).half())
    only(found, "half-weights", "model, branch 'relu1'", "torch.autocast with a GradScaler", severity="warning")
    assert not ds.diagnose(attached().bfloat16(), images(4).bfloat16())


def test_a_frozen_head_is_found() -> None:
    net = attached()
    net.heads.requires_grad_(False)
    only(examined(net), "frozen-head", "branch 'relu1'", "requires_grad_(True)", severity="warning")


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
