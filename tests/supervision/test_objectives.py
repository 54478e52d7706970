"""One loss out of named parts, and errors that name both sides when the names do not meet."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import BranchNameError, ClassCountError, ConfigError, HeadError, OutputError
from tests.support.method_steps import Case, ce, kl
from tests.support.odd_nets import Returning
from tests.support.small_nets import CLASSES, Plain, images, labels

AT = ["conv1", "relu2"]


def planned(**options: Any) -> ds.Plan:
    return ds.plan(Plain(), images(), AT, **options)


def outputs(batch: int = 4, **aux: Tensor) -> ds.Outputs:
    parts = {n: torch.randn(batch, CLASSES, requires_grad=True) for n in AT}
    return ds.Outputs(torch.randn(batch, CLASSES, requires_grad=True), {**parts, **aux})


def test_the_total_is_the_weighted_sum_of_the_labelled_parts() -> None:
    objective = ds.Objective(planned(weight={"conv1": "linear(0.4, 0)", "relu2": 0.25}))
    out, y = outputs(), labels(4)
    for progress, weights in ((0, (0.4, 0.25)), (0.5, (0.2, 0.25)), (1, (0.0, 0.25))):
        terms = objective(out, y, progress=progress)
        assert list(terms.parts) == list(terms.weights) == ["main", *AT]
        assert terms.weights == pytest.approx({"main": 1.0, "conv1": weights[0], "relu2": weights[1]})
        assert float(terms.parts["main"].detach()) == float(F.cross_entropy(out.main.detach(), y))
        assert float(terms.parts["conv1"].detach()) == float(F.cross_entropy(out.aux["conv1"].detach(), y))
        expected = sum(terms.weights[n] * float(p.detach()) for n, p in terms.parts.items())
        assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-6)


def test_progress_must_be_said_where_a_weight_changes() -> None:
    assert ds.Objective(planned(weight=0.4))(outputs(), labels(4)).weights["conv1"] == 0.4
    with pytest.raises(
        ConfigError, match=r"the weight of 'conv1' changes over training \(linear\(0.4, 0\)\): pass progress="
    ):
        ds.Objective(planned(weight="linear(0.4, 0)"))(outputs(), labels(4))


def test_a_loss_that_is_no_single_number_is_refused() -> None:
    plan = planned(branch_loss={"conv1": lambda p, y: (p - 1).square().mean(1)})
    with pytest.raises(
        HeadError, match=r"the loss of 'conv1' .* returned a tensor of shape \(4,\); it must return one number"
    ):
        ds.Objective(plan)(outputs(), labels(4))


def test_the_gradient_of_the_total_is_the_weighted_sum_of_the_parts_gradients() -> None:
    model = Plain().double().train()
    plan = ds.plan(model, images().double(), AT, weight={"conv1": 0.3, "relu2": "linear(0.8, 0)"})
    net = ds.attach(model, plan)
    terms = ds.Objective(plan)(net(images(4).double()), labels(4), progress=0.25)
    parameters = list(net.parameters())

    def grads(value: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    summed = [torch.zeros_like(p) for p in parameters]
    for name, part in terms.parts.items():
        summed = [s + terms.weights[name] * g for s, g in zip(summed, grads(part), strict=True)]
    for total, expected in zip(grads(terms.total), summed, strict=True):
        assert torch.allclose(total, expected, rtol=1e-12, atol=1e-14)
    assert terms.weights["relu2"] == pytest.approx(0.6)


def test_a_branch_of_weight_zero_stands_in_the_graph_and_gets_no_gradient() -> None:
    out, reached = outputs(), []
    for name in AT:
        out.aux[name].register_hook(lambda gradient: reached.append(gradient))
    ds.Objective(planned(weight=0))(out, labels(4)).total.backward()
    assert reached == [None] * len(AT)
    assert all(out.aux[name].grad is None for name in AT)


@pytest.mark.parametrize("worst", [float("inf"), float("nan"), 1.0])
def test_a_main_output_of_weight_zero_is_no_number_and_no_gradient(worst: float) -> None:
    plan = dataclasses.replace(planned(weight={"conv1": 0, "relu2": 0.5}), main_weight=0.0)
    out, y = outputs(), labels(4)
    main = out.main
    terms = ds.Objective(plan)(ds.Outputs(main * worst, out.aux), y)
    terms.total.backward()
    assert torch.equal(terms.total, 0.5 * F.cross_entropy(out.aux["relu2"], y))
    assert not terms.parts["main"].requires_grad
    assert main.grad is out.aux["conv1"].grad is None
    nothing = ds.Objective(dataclasses.replace(planned(weight=0), main_weight=0.0))(outputs(), y)
    nothing.total.backward()
    assert float(nothing.total.detach()) == 0


def test_it_prints_as_its_formula() -> None:
    plan = planned(
        weight={"conv1": "cnds(0.3, 40)", "relu2": 0.4}, branch_loss={"relu2": F.mse_loss}, head={"relu2": "linear"}
    )
    assert repr(ds.Objective(plan)) == (
        "total = cross_entropy(main, y) + cnds(0.3, 40) * cross_entropy(conv1, y) + 0.4 * custom:mse_loss(relu2, y)"
    )
    assert repr(ds.Objective()) == "total = cross_entropy(main, y)"
    smooth = "cross_entropy(smoothing=0.1)"  # of branches with main's loss as well
    assert repr(ds.Objective(plan, loss=smooth)) == (
        f"total = {smooth}(main, y) + cnds(0.3, 40) * {smooth}(conv1, y) + 0.4 * custom:mse_loss(relu2, y)"
    )
    with pytest.raises(
        ConfigError, match=r"mse_loss reads values, and the plan's main output gives 5 classes, \(N, 5\)"
    ):
        ds.Objective(plan, loss=F.mse_loss)


@pytest.mark.parametrize("progress", [-0.01, 1.01, 100, float("nan"), float("inf")])
def test_progress_outside_of_training_is_refused(progress: float) -> None:
    with pytest.raises(ConfigError, match=r"progress is the share of training that is done, in \[0, 1\]; found"):
        ds.Objective(planned())(outputs(), labels(4), progress=progress)


def test_names_that_do_not_meet_name_both_sides() -> None:
    objective = ds.Objective(planned())
    use = "Use the plan that the model was attached with: Objective(net.plan)."
    missing, extra = outputs(), outputs(layer9=torch.randn(4, CLASSES))
    del missing.aux["conv1"]
    both = ds.Outputs(extra.main, {n: t for n, t in extra.aux.items() if n != "conv1"})
    for out, message in (
        (missing, f"the plan has conv1, the outputs do not. {use}"),
        (extra, f"the outputs have layer9, the plan does not. {use}"),
        (both, f"the plan has conv1, the outputs do not; the outputs have layer9, the plan does not. {use}"),
    ):
        with pytest.raises(BranchNameError) as caught:
            objective(out, labels(4))
        assert str(caught.value) == message
    with pytest.raises(BranchNameError, match="the outputs have conv1, relu2, the plan does not"):
        ds.Objective()(outputs(), labels(4))


def test_a_plain_output_is_taken_without_a_graph_and_refused_with_one() -> None:
    objective, model, x = ds.Objective(planned()), Plain().eval(), images(4)
    with torch.no_grad():
        terms = objective(model(x), labels(4))
    assert (list(terms.parts), terms.weights) == (["main"], {"main": 1.0})
    assert float(terms.total) == float(terms.parts["main"])
    with pytest.raises(OutputError) as caught:
        objective(model(x), labels(4))
    assert str(caught.value) == (
        "the plan has branches (conv1, relu2), but the output is the plain model's: it was run in eval mode or is not "
        "attached. Call net.train() to train; in eval mode `with deepsup.supervising(net):` runs the branches too, and "
        "torch.no_grad() scores the main output alone."
    )


def test_the_plain_model_trains_with_an_objective_of_no_plan() -> None:
    model, x, y = Plain().train(), images(4), labels(4)
    for plan in (None, ds.plan(model, x, method="none")):
        terms = ds.Objective(plan)(model(x), y)
        terms.total.backward()
        assert list(terms.parts) == ["main"]


def test_the_prediction_is_found_in_the_models_own_output() -> None:
    model, x = Returning(lambda y, h: {"a": h, "b": y}).train(), torch.randn(4, 3)
    plan = ds.plan(model, x, "body", main="b")
    net = ds.attach(model, plan)
    out = net(x)
    terms = ds.Objective(plan)(out, labels(4))
    assert torch.equal(terms.parts["main"], F.cross_entropy(out.main["b"], labels(4)))


def test_the_main_loss_may_be_the_users_own_and_branches_that_share_it_follow() -> None:
    out, y = outputs(), labels(4)

    def smooth(prediction: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(prediction, target, label_smoothing=0.1)

    terms = ds.Objective(planned(branch_loss={"relu2": "squared_hinge"}), loss=smooth)(out, y)
    assert torch.equal(terms.parts["main"], F.cross_entropy(out.main, y, label_smoothing=0.1))
    assert torch.equal(terms.parts["conv1"], F.cross_entropy(out.aux["conv1"], y, label_smoothing=0.1))
    assert torch.equal(terms.parts["relu2"], ds.losses.squared_hinge(out.aux["relu2"], y))
    with pytest.raises(ConfigError, match="no loss is called 'mystery'"):
        ds.Objective(planned(), loss="mystery")(out, y)


@pytest.mark.parametrize(
    "target",
    [(torch.tensor([0, 1]), torch.tensor([1, 2]), 0.3), {"a": torch.tensor([0, 1])}, torch.tensor([700, 800]), None],
    ids=["mixup", "dict", "not a class index", "none"],
)
def test_a_loss_of_the_users_own_takes_any_target(target: Any) -> None:
    terms = ds.Objective(loss=lambda prediction, y: prediction.sum())(torch.randn(2, CLASSES), target)
    assert list(terms.parts) == ["main"]
    every = ds.Objective(
        planned(branch_loss=lambda prediction, y: prediction.sum()), loss=lambda prediction, y: prediction.sum()
    )
    assert list(every(outputs(2), target).parts) == ["main", *AT]


def test_soft_targets_are_taken_by_every_part() -> None:
    out, soft = outputs(), torch.rand(4, CLASSES).softmax(1)
    terms = ds.Objective(planned())(out, soft)
    assert torch.equal(terms.parts["relu2"], F.cross_entropy(out.aux["relu2"], soft))


@pytest.mark.parametrize("wrong", [CLASSES, -1, 255])
def test_a_label_without_a_class_is_found_in_the_first_batch_and_later(wrong: int) -> None:
    objective, bad = ds.Objective(planned()), torch.tensor([0, wrong, 1, 2])
    with pytest.raises(ClassCountError, match="the outputs have 5 classes"):
        objective(outputs(), bad)
    objective(outputs(), labels(4))
    with pytest.raises(ClassCountError, match="the outputs have 5 classes"):
        objective(outputs(), bad)


def test_a_target_of_another_shape_is_a_head_error() -> None:
    with pytest.raises(HeadError, match="found a target of shape"):
        ds.Objective(planned())(outputs(), torch.zeros(4, 8, 8, dtype=torch.long))


def test_an_adaptive_weight_has_its_own_decay_and_forgets_what_is_not_finite() -> None:
    case = Case("aux", ["layer1", "layer2"], weight={"layer1": "adaptive(0.0)", "layer2": "adaptive(0.99)"})
    first = case.objective(case.net(case.x), case.y).parts
    second = case.objective(case.net(2 * case.x), case.y)
    values = [{n: float(p.detach()) for n, p in parts.items()} for parts in (first, second.parts)]
    assert float(second.weights["layer1"]) == pytest.approx(values[1]["main"] / values[1]["layer1"], rel=1e-5)
    means = {n: 0.99 * values[0][n] + 0.01 * values[1][n] for n in ("main", "layer2")}
    assert float(second.weights["layer2"]) == pytest.approx(means["main"] / means["layer2"], rel=1e-5)
    before = dict(case.objective.memory)
    case.objective(case.net(case.x * float("inf")), case.y)
    assert {k: float(v) for k, v in case.objective.memory.items()} == {k: float(v) for k, v in before.items()}
    with pytest.raises(ConfigError, match="until cannot change an adaptive weight"):
        Case("aux", ["layer1"], weight="until(adaptive(0.9), 0.5)")


def test_a_term_of_ones_own_can_be_added_and_a_misspelt_one_is_refused() -> None:
    from dataclasses import replace

    case = Case("aux", ["layer1", "layer2"])
    extra = tuple(ds.Edge(n, "ensemble", "kl(temperature=3)", weight=0.5) for n in ("layer1", "layer2"))
    plan = replace(case.plan, edges=extra)
    assert ds.Plan.from_dict(plan.to_dict()) == plan
    case.objective = ds.Objective(plan)

    def by_hand(a: dict[str, Tensor], h: dict[str, Any], y: Tensor) -> Tensor:
        whole = (a["main"] + h["layer1"] + h["layer2"]) / 3
        labels = ce(a["main"], y) + 0.3 * (ce(h["layer1"], y) + ce(h["layer2"], y))
        return labels + 0.5 * 9 * (kl(h["layer1"], whole, 3.0) + kl(h["layer2"], whole, 3.0))

    case.check(by_hand)
    with pytest.raises(
        BranchNameError, match=r"names the output 'layr1', which is not there. Closest: layer1. Outputs:"
    ):
        ds.Objective(replace(case.plan, edges=(ds.Edge("layr1", "main", "kl"),)))


@pytest.mark.parametrize("task", ["classification", "tokens", "labels", "values"])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_compiled_step_has_the_losses_of_a_plain_one(task: str, fresh: bool) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    x = torch.randn(8, 5, 4) if task == "tokens" else torch.randn(8, 4)
    y = {
        "classification": torch.randint(0, 3, (8,)),
        "tokens": torch.randint(0, 3, (8, 5)),
        "labels": (torch.rand(8, 3) < 0.5).float(),
        "values": torch.randn(8, 3),
    }[task]
    plan = ds.plan(net, x, at=["1"], task=task, branch_loss=F.mse_loss if task == "values" else None)
    supervised, plain = ds.attach(net, plan), ds.Objective(plan)
    expected = plain(supervised(x), y)
    objective = ds.Objective(plan) if fresh else plain
    torch._dynamo.reset()
    step = torch.compile(lambda x, y: objective(supervised(x), y), backend="eager", fullgraph=True)
    found = step(x, y)
    for name, part in expected.parts.items():
        assert torch.allclose(found.parts[name], part), name
    assert torch.allclose(found.total, expected.total)


@pytest.mark.parametrize("channels", [2, 8])  # 8: as many as there are rows and columns
def test_masks_of_maps_with_channels_last_have_theirs_last(channels: int) -> None:
    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = torch.nn.Conv2d(3, 6, 1), torch.nn.Conv2d(6, channels, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.body(x)).movedim(1, -1)

    net, x = Last(), torch.randn(2, 3, 8, 8)
    target = torch.randn(2, 8, 8, channels)
    plan = ds.plan(net, x, at=["body"], task="values")
    found = ds.attach(net, plan)(x)
    for mask in (torch.rand(2, 8, 8, channels) < 0.5, torch.rand(2, 8, 8) < 0.5, torch.rand(2, 8, 8, 1) < 0.5):
        part = ds.Objective(plan)(found, {"target": target, "mask": mask}).parts["main"]
        wide = mask if mask.ndim == 4 else mask[..., None]
        assert torch.allclose(part, (found.main - target).square()[wide.expand_as(target)].mean())


@pytest.mark.parametrize(("places", "given"), [(3, -1), (5, -1), (5, 1)])  # also as many places as labels
def test_pytorchs_losses_of_labels_have_their_weights_on_the_models_own_axis(places: int, given: int) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 5.0, 0.2]))
    x, y = torch.randn(2, places, 4), (torch.rand(2, places, 3) < 0.5).float()
    plan = ds.plan(net, x, at={"b": "1"}, loss=loss, task="labels")
    outputs = ds.attach(net, plan)(x)
    terms = ds.Objective(plan)(outputs, y if given == -1 else y.movedim(-1, 1))
    expected = {"main": loss(outputs.main, y), "b": loss(outputs.aux["b"].movedim(1, -1), y)}  # tokenwise has axis 1
    assert {n: float(p.detach()) for n, p in terms.parts.items()} == {n: float(v.detach()) for n, v in expected.items()}
