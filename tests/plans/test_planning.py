"""`plan`: what is asked meets what the dry run saw, or an error says both."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import heads
from deepsup.errors import AttachError, BranchNameError, ConfigError, DeepsupError, HeadError, OutputError
from deepsup.schedules import constant, linear
from tests.support.odd_nets import Returning, TwoInputs
from tests.support.small_nets import CLASSES, Plain, Residual, images, labels
from tests.support.states import assert_untouched, snapshot, with_grads

AT = ["conv1", "relu2"]


def own_head(feature: ds.Feature, classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(feature.channels, classes))


def test_a_plan_says_what_was_asked_and_what_was_seen() -> None:
    plan = ds.plan(Plain(), images(), AT)
    assert (plan.model, plan.method, plan.classes, plan.main) == ("Plain", "aux", CLASSES, ())
    assert (plan.input_shape, plan.params, plan.flops, plan.notes) == ((2, 3, 16, 16), 1477, 258208, ())
    conv1, relu2 = plan.branches
    assert (conv1.name, conv1.layer, str(conv1.feature), conv1.head) == ("conv1", "conv1", "8x16x16", "pool")
    assert (relu2.loss, relu2.weight, relu2.depth, relu2.clone) == ("cross_entropy", constant(0.3), 0.6667, False)


def test_head_loss_and_weight_for_all_branches_or_by_name() -> None:
    plan = ds.plan(
        Plain(),
        images(),
        AT,
        head={"relu2": "linear"},
        branch_loss={"conv1": F.cross_entropy},
        weight={"conv1": "linear(0.3, 0)"},
    )
    assert [b.head for b in plan.branches] == ["pool", "linear"]
    assert [b.loss for b in plan.branches] == [F.cross_entropy, "cross_entropy"]
    assert [b.weight for b in plan.branches] == [linear(0.3, 0), constant(0.3)]
    for given in (0.5, "constant(0.5)", constant(0.5)):
        assert [b.weight for b in ds.plan(Plain(), images(), AT, weight=given).branches] == [constant(0.5)] * 2
    assert [b.head for b in ds.plan(Plain(), images(), AT, method="cnds").branches] == ["cnds", "cnds"]


def test_tokens_get_a_token_head_by_default() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.block, self.fc = nn.Linear(48, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patches(F.unfold(x, 4, stride=4).mT)
            return self.fc(self.block(tokens).mean(1))

    (branch,) = ds.plan(Tokens(), images(), "block").branches
    assert (branch.head, branch.feature) == ("token", ds.Feature((16, 8), "NLC"))


@pytest.mark.parametrize("part", ["head", "branch_loss", "weight"])
def test_a_setting_for_an_unknown_branch_names_both_sides(part: str) -> None:
    with pytest.raises(BranchNameError) as caught:
        ds.plan(Plain(), images(), AT, **{part: {"conv1": "x", "layer9": "x"}})
    assert str(caught.value) == f"{part}= names branch 'layer9', which is not there. Branches: conv1, relu2."


def test_a_setting_by_layer_name_of_a_branch_with_another_name_is_refused() -> None:
    with pytest.raises(BranchNameError, match=r"names branch 'conv1', which is not there. Branches: early"):
        ds.plan(Plain(), images(), {"early": "conv1"}, weight={"conv1": 0.1})


@pytest.mark.parametrize("name", ["half", "train", "forward", "a.b", "a/b", "1", "früh", ""])
def test_any_name_that_planning_takes_can_be_attached(name: str) -> None:
    model = Plain().train()
    try:
        plan = ds.plan(model, images(), {name: "conv1"})
    except DeepsupError:
        assert name in ("", "a/b")  # a name may be refused, with an error of ours, if there is no way to show it
        return
    assert list(ds.attach(model, plan)(images()).aux) == [name]


def test_names_that_look_alike_keep_their_own_heads() -> None:
    model = Plain().train()
    try:
        net = ds.attach(model, ds.plan(model, images(), {"a.b": "conv1", "a/b": "conv2"}))
    except DeepsupError:
        return  # refusing one of them is as good
    assert net.heads["a.b"] is not net.heads["a/b"]
    assert list(net(images()).aux) == ["a.b", "a/b"]


def test_a_frozen_tower_beside_a_trained_one_can_be_supervised() -> None:
    model, sample = TwoInputs().train(), (torch.randn(2, 3), torch.randn(2, 4))
    model.b.requires_grad_(False)  # runs after `a`, which trains, but does not depend on it
    net = ds.attach(model, ds.plan(model, sample, "b"))
    assert net(*sample).aux["b"].requires_grad  # the head trains


def test_costs_are_those_computed_by_hand() -> None:
    plan = ds.plan(
        Plain(), images(), {"a": "conv1", "b": "relu1", "c": "relu2"}, head={"a": "linear", "b": "cnds(hidden=32)", "c": "pool"}
    )  # fmt: skip
    a, b, c = plan.branches
    assert (a.params, a.flops) == (2048 * 5 + 5, 2 * 2048 * 5)
    assert a.activation_bytes == 4 * (2048 + 5)  # the flattened activation, the scores
    # 16x16 pooled 5/2 is 7x7, rounded up; 1x1 convolution to 64; 3136 -> 32 -> 32 -> 5
    assert b.params == (8 * 64 + 64) + (3136 * 32 + 32) + (32 * 32 + 32) + (32 * 5 + 5)
    assert b.flops == 2 * (8 * 64 * 49 + 3136 * 32 + 32 * 32 + 32 * 5)
    assert b.activation_bytes == 4 * (8 * 49 + 64 * 49 + 3136 + 6 * 32 + 5)
    assert (c.params, c.flops, c.activation_bytes) == (16 * 5 + 5, 2 * 16 * 5, 4 * (16 + 5))
    assert plan.cost["head_params"] == a.params + b.params + c.params
    assert plan.cost["head_flops"] == a.flops + b.flops + c.flops


def test_a_copy_that_a_tap_keeps_is_paid_for() -> None:
    with_copy = ds.plan(Residual(), images(), "bn1", head="pool").branches[0]
    assert with_copy.clone
    assert with_copy.activation_bytes == 4 * (4 + 5) + 4 * (4 * 8 * 8)


def test_costs_of_the_users_own_head_are_counted_too() -> None:
    for head in (own_head, own_head(ds.Feature((8, 16, 16), "NCHW"), CLASSES)):
        branch = ds.plan(Plain(), images(), "conv1", head=head).branches[0]
        assert (branch.params, branch.flops) == (8 * 5 + 5, 2 * 8 * 5)
        assert branch.head is head


class Noisy(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5).mean((2, 3)))


def test_planning_leaves_the_model_the_users_head_and_the_random_state_alone() -> None:
    model = with_grads(Residual()).train()
    model.bn1.eval()
    head = with_grads(Noisy(nn.BatchNorm1d(4), nn.Linear(4, CLASSES))).train()
    head[0].eval()
    sample, data = images(), [(images(4), labels(4))]

    def building(feature: ds.Feature, classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(feature.channels * 64, classes))

    before = snapshot(model), snapshot(head)
    ds.plan(model, sample, ["layer1"], head=head)
    ds.plan(model, sample, ["layer1"], head=building)
    ds.plan(model, sample, ["layer1", "layer2"], method="cnds")
    ds.plan(model, sample, method="none")
    try:
        ds.plan(model, sample, "auto", batches=data)
    except ConfigError:
        pass  # no gradient vanishes here
    assert_untouched(before, (snapshot(model), snapshot(head)))


def test_a_lazy_head_of_the_users_is_refused_or_left_lazy() -> None:
    head = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))
    before = repr(head)
    with contextlib.suppress(HeadError):
        ds.plan(Plain(), images(), AT[:1], head=head)
    assert repr(head) == before
    assert isinstance(head[1], nn.LazyLinear)


@pytest.mark.parametrize(
    "options",
    [
        {"at": "layer9"},
        {"at": "layer1", "head": "token"},
        {"at": "layer1", "head": nn.Linear(3, 3)},
        {"at": "layer1", "classes": 7},
        {"at": "layer1", "weight": {"x": 1}},
        {"at": "layer1", "weight": "lineal(1, 0)"},
        {"at": "layer1", "branch_loss": "mystery"},
        {"at": "layer1", "main": "logits"},
        {"at": "layer1", "method": "dsnn"},
        {"at": "layer1.0.relu"},
    ],
    ids=str,
)
def test_a_plan_that_fails_leaves_no_trace_either(options: dict[str, Any]) -> None:
    model, sample = with_grads(Residual()).eval(), images()
    before = snapshot(model)
    with pytest.raises(DeepsupError):
        ds.plan(model, sample, **options)
    assert_untouched(before, snapshot(model))


def test_a_head_that_cannot_read_the_activation_is_a_head_error() -> None:
    with pytest.raises(HeadError) as caught:
        ds.plan(Plain(), images(), "conv1", head=nn.Linear(3, CLASSES))
    assert str(caught.value).startswith(
        "the head of branch 'conv1' (custom:Linear) cannot read an activation of 8x16x16 a sample in layout NCHW: RuntimeError: "
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


class Split(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x, x


def dense(*shape: int) -> nn.Module:
    """A head that gives out `shape` a sample."""
    size = int(torch.Size(shape).numel())
    return nn.Sequential(nn.Flatten(), nn.Linear(8 * 16 * 16, size), nn.Unflatten(1, shape))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (Split(), "the head of branch 'conv1' returned tuple; it must return one tensor."),
        (
            dense(3),
            "the head of branch 'conv1' predicts (3,) a sample, the model itself (5,), and both meet one target. "
            "Give the branch a head with output (5,), or a branch_loss= of its own.",
        ),
        (dense(CLASSES, 4, 4), "the head of branch 'conv1' predicts (5, 4, 4) a sample, the model itself (5,)"),
        (nn.Sequential(nn.Flatten(0)), "the head of branch 'conv1' predicts () a sample, the model itself (5,)"),
    ],
)
def test_a_head_that_does_not_meet_the_target(head: nn.Module, message: str) -> None:
    with pytest.raises(HeadError) as caught:
        ds.plan(Plain(), images(), "conv1", head=head)
    assert str(caught.value).startswith(message)


def test_a_branch_with_a_loss_of_its_own_may_predict_anything() -> None:
    plan = ds.plan(Plain(), images(), "conv1", head=dense(3), branch_loss=F.mse_loss)
    assert plan.branches[0].loss is F.mse_loss


def test_a_map_of_another_size_than_the_models_needs_a_loss_that_resizes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, CLASSES, 1))
    assert ds.plan(model, images(), "0", head=dense(CLASSES, 16, 16))
    assert ds.plan(model, images(), "0", head=dense(CLASSES, 4, 4))  # cross_entropy brings sizes together
    with pytest.raises(HeadError, match=r"predicts \(5, 4, 4\) a sample, the model itself \(5, 16, 16\)"):
        ds.plan(model, images(), "0", head=dense(CLASSES, 4, 4), branch_loss="squared_hinge")


@pytest.mark.parametrize(("at", "head"), [("conv1", "token"), ("conv1", "pol"), ("fc", "cnds")])
def test_a_named_head_that_does_not_fit_is_a_head_error(at: str, head: str) -> None:
    with pytest.raises(HeadError):
        ds.plan(Plain(), images(), at, head=head)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "method 'aux' needs at=: layer names, or 'auto' with batches= to let the probe decide."),
        ({"at": "conv1", "method": "none"}, "method 'none' attaches no branches, but at='conv1' was asked."),
        ({"at": "auto"}, "at='auto' probes gradients on your data: pass batches=, an iterable of (input, target)."),
        ({"at": "conv1", "method": "cdns"}, "no method is called 'cdns'. Closest: cds."),
        ({"at": "conv1", "branch_loss": "crossentropy"}, "no loss is called 'crossentropy'. Closest: cross_entropy."),
        ({"at": "conv1", "weight": "linaer(1, 0)"}, "cannot read the schedule 'linaer(1, 0)'"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ds.plan(Plain(), images(), **options)
    assert str(caught.value).startswith(message)


def test_main_may_be_said_and_must_be_there() -> None:
    x = torch.randn(2, 3)
    plan = ds.plan(Returning(lambda y, h: {"a": h, "b": y}), x, "body", main="b")
    assert (plan.main, plan.classes) == (("b",), CLASSES)
    with pytest.raises(OutputError, match="no output 'c' for main=; found: a, b"):
        ds.plan(Returning(lambda y, h: {"a": h, "b": y}), x, "body", main="c")
    with pytest.raises(OutputError):
        ds.plan(Returning(lambda y, h: y[:, 0]), x, "body")


def test_a_half_precision_model_is_planned_in_half_precision() -> None:
    model = Plain().bfloat16()
    plan = ds.plan(model, images().bfloat16(), AT)
    assert [b.params for b in plan.branches] == [45, 85]


def test_a_plan_holds_for_a_copy_of_the_model() -> None:
    model = Plain()
    plan = ds.plan(model, images(), AT)
    assert ds.attach(copy.deepcopy(model), plan).plan is plan
    assert heads.resolve("auto", plan.branches[0].feature) == plan.branches[0].head


def test_one_head_module_for_two_branches_is_refused() -> None:
    with pytest.raises(HeadError, match="branches 'conv1' and 'relu1' would share one head module"):
        ds.plan(
            Plain(),
            images(),
            ["conv1", "relu1"],
            head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
        )


@pytest.mark.parametrize("head", [nn.Linear, lambda feature: nn.Identity()])
def test_a_head_function_of_other_arguments_is_a_head_error(head: Any) -> None:
    with pytest.raises(HeadError, match=r"is called as head\(feature, classes\)"):
        ds.plan(Plain(), images(), "conv1", head=head)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrapped_models_are_refused_when_planning(wrap: Any) -> None:
    with pytest.raises(AttachError, match=r"compiled before attach|DataParallel cannot be supervised"):
        ds.plan(wrap(Plain()), images(), "conv1")
