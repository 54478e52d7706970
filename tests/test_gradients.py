"""Each rule against its formula written out in numbers, and the fork against autograd's own sum."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

import deepsup as ds
from deepsup import gradients, schedules
from deepsup.errors import ConfigError
from deepsup.gradients import RULES, Fork, dot, get, new_slot, parse
from tests.support.small_nets import CLASSES, Plain, images

ONE = torch.ones(())
ABOVE, AGAINST, WITH = torch.tensor([3.0, 4.0]), torch.tensor([-2.0, 1.0]), torch.tensor([1.0, 1.0])


def apply(text: str, above: Tensor, branch: Tensor, *, progress: float = 0.0, outputs_above: int = 1) -> list[float]:
    rule = parse(text)
    result: list[float] = rule(above, branch, torch.tensor(rule.factor(progress, outputs_above))).tolist()
    return result


def test_the_plain_sum_scale_and_detach() -> None:
    assert apply("add", ABOVE, AGAINST) == [1.0, 5.0]
    assert apply("scale(0.5)", ABOVE, AGAINST) == [2.0, 4.5]
    assert apply("detach", ABOVE, AGAINST) == [3.0, 4.0]


def test_scale_follows_a_schedule_and_warmup_rises_to_one() -> None:
    assert apply("scale(linear(0, 1))", ABOVE, AGAINST, progress=0.5) == [2.0, 4.5]
    assert apply("warmup(0.4)", ABOVE, AGAINST, progress=0.0) == [3.0, 4.0]
    assert apply("warmup(0.4)", ABOVE, AGAINST, progress=0.2) == [2.0, 4.5]
    assert apply("warmup(0.4)", ABOVE, AGAINST, progress=0.4) == [1.0, 5.0]
    assert apply("warmup(0.4)", ABOVE, AGAINST, progress=1.0) == [1.0, 5.0]


def test_project_removes_the_opposing_part_of_the_branch_only() -> None:
    # <above, branch> = -2, |above|² = 25: branch loses -2/25 of above.
    assert apply("project", ABOVE, AGAINST) == pytest.approx([3 - 2 + 2 / 25 * 3, 4 + 1 + 2 / 25 * 4])
    result = torch.tensor(apply("project", ABOVE, AGAINST))
    assert float(dot(result - ABOVE, ABOVE)) == pytest.approx(0, abs=1e-5)
    assert apply("project", ABOVE, WITH) == [4.0, 5.0]  # no conflict: untouched


def test_pcgrad_removes_the_opposing_part_of_both() -> None:
    # branch keeps branch + 2/25 above; above keeps above + 2/5 branch.
    expected = [3 + 2 / 5 * -2 + -2 + 2 / 25 * 3, 4 + 2 / 5 * 1 + 1 + 2 / 25 * 4]
    assert apply("pcgrad", ABOVE, AGAINST) == pytest.approx(expected)
    assert apply("pcgrad", ABOVE, WITH) == [4.0, 5.0]


def test_mgda_is_the_shortest_convex_combination() -> None:
    found = torch.tensor(apply("mgda", ABOVE, AGAINST))
    line = torch.linspace(0.001, 0.999, 9999)[:, None]
    every = line * ABOVE + (1 - line) * AGAINST
    shortest = every[every.norm(dim=1).argmin()]
    torch.testing.assert_close(found, shortest, rtol=0, atol=2e-3)
    assert float(dot(found, ABOVE)) > 0
    assert float(dot(found, AGAINST)) > 0


def test_mgda_is_clipped_where_one_gradient_dominates_and_lets_a_lone_gradient_through() -> None:
    assert apply("mgda", ABOVE, 100 * ABOVE) == pytest.approx((0.999 * ABOVE + 0.001 * 100 * ABOVE).tolist(), rel=1e-5)
    assert apply("mgda", ABOVE, 0 * ABOVE) == ABOVE.tolist()
    assert apply("mgda", 0 * ABOVE, ABOVE) == ABOVE.tolist()
    assert apply("mgda", ABOVE, ABOVE) == pytest.approx(ABOVE.tolist())


def test_equilibrium_gives_every_output_the_same_say() -> None:
    # Three outputs of gradient 1 each, met from the top: main alone, then two branches below it.
    first = torch.tensor(apply("equilibrium", torch.ones(1), torch.full((1,), 4.0), outputs_above=1))
    assert first.tolist() == [2.5]  # the mean of 1 and 4
    second = apply("equilibrium", first, torch.full((1,), 10.0), outputs_above=2)
    assert second == pytest.approx([(1 + 4 + 10) / 3])


@pytest.mark.parametrize("text", ["project", "pcgrad", "mgda", "scale(0.5)", "detach", "add"])
def test_a_branch_of_weight_zero_changes_nothing(text: str) -> None:
    assert apply(text, ABOVE, torch.zeros(2)) == ABOVE.tolist()
    assert not any(map(math.isnan, apply(text, torch.zeros(2), torch.zeros(2))))


def test_half_precision_does_not_overflow_in_the_inner_products() -> None:
    large = torch.full((4096,), 300.0, dtype=torch.float16)
    assert dot(large, large).item() == 4096 * 300.0**2
    result = parse("project")(large, -large, ONE)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result, large)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dot_is_the_inner_product_in_every_memory_layout(memory_format: torch.memory_format) -> None:
    a, b = torch.randn(2, 3, 4, 5).to(memory_format=memory_format), torch.randn(2, 3, 4, 5)
    for one, other in ((a, b), (b, a), (a, b[:1].expand_as(a)), (a, a)):
        torch.testing.assert_close(dot(one, other), (one * other).sum())


@pytest.mark.parametrize("rule", [f() if n not in ("scale", "warmup") else f(0.5) for n, f in RULES.items()], ids=repr)
def test_rules_print_as_the_text_that_makes_them_and_can_be_copied(rule: gradients.Rule) -> None:
    assert parse(repr(rule)) == rule
    assert get(rule) is rule
    assert copy.deepcopy(rule) == rule
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert repr(parse("scale(warmup(constant(0.5), 0.2))")) == "scale(warmup(constant(0.5), 0.2))"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("projekt", "no gradient rule is called 'projekt'. Closest: project. Rules: add, scale"),
        ("scale", "cannot read the gradient rule 'scale'. Write scale(BY)."),
        ("scale()", "Write scale"),
        ("project(1)", "Write project."),
        ("scale(0.5", "cannot read the gradient rule"),
        ("scale(nothing(3))", "no schedule is called 'nothing'"),
        ("warmup(0)", "a share of training in (0, 1]"),
        ("warmup(two)", "a share of training in (0, 1]"),
    ],
)
def test_an_unreadable_rule_is_an_error_that_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_only_texts_rules_and_functions_are_taken() -> None:
    with pytest.raises(ConfigError, match="takes a rule's text or a function"):
        get(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes a rule's text or a function"):
        get(gradients.project)  # type: ignore[arg-type]


@pytest.mark.parametrize("copied", [False, True])
def test_the_fork_is_autograds_own_sum_and_measures_both(copied: bool) -> None:
    x = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    slot = new_slot(x.device)
    trunk, branch = Fork.apply(x * 2, slot, ONE, gradients.add(), copied)
    (trunk.sin().sum() + 0.3 * branch.exp().sum()).backward()
    above, sent = (x.detach() * 2).cos(), 0.3 * (x.detach() * 2).exp()
    torch.testing.assert_close(x.grad, 2 * (above + sent))
    expected = [(above * sent).sum(), above.square().sum(), sent.square().sum(), (above * (above + sent)).sum()]
    torch.testing.assert_close(slot.grad, torch.stack(expected))


def test_a_copied_fork_may_be_overwritten_in_place() -> None:
    x = torch.randn(5, requires_grad=True)
    trunk, branch = Fork.apply(x * 1, None, ONE, gradients.add(), True)
    (trunk.relu_().sum() + branch.sum()).backward()
    torch.testing.assert_close(x.grad, 1 + (x.detach() > 0).float())


def weights_after_a_backward(gradient: object, weight: float = 0.7) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = Plain()
    plan = ds.plan(model, images(4), at=["relu1"], weight=weight, gradient=gradient)
    net = ds.attach(model, plan)
    ds.Objective(plan)(net(images(4)), torch.arange(4) % CLASSES).total.backward()
    return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def test_rules_change_what_is_below_the_tap_and_nothing_else() -> None:
    plain, detached, halved = (weights_after_a_backward(g) for g in ("add", "detach", "scale(0.5)"))
    own = weights_after_a_backward(lambda above, branch: above + 0.5 * branch)
    for name, found in plain.items():
        below = name.startswith("model.conv1")
        assert torch.equal(found, detached[name]) != below
        if below:
            torch.testing.assert_close(halved[name], (found + detached[name]) / 2)
        assert torch.equal(halved[name], own[name])


def test_a_rule_that_moves_needs_to_know_the_progress() -> None:
    model = Plain()
    plan = ds.plan(model, images(4), at=["relu1", "relu2"], gradient={"relu2": "warmup(0.5)"})
    net = ds.attach(model, plan)
    with pytest.raises(ConfigError, match=r"branch 'relu2' changes over training \(warmup\(0.5\)\).*net.set_progress"):
        net(images(2))
    net.set_progress(0.25)
    assert [t.factor.item() for t in net.taps.values()] == [1.0, 0.5]
    assert set(net(images(2)).aux) == {"relu1", "relu2"}
    with pytest.raises(ConfigError, match="progress is the share of training"):
        net.set_progress(3)
    net.eval()
    assert net(images(2)).shape == (2, CLASSES)


def test_a_plan_shows_and_stores_its_rules(tmp_path: object) -> None:
    plan = ds.plan(Plain(), images(4), at=["relu1", "relu2"], gradient={"relu1": "scale(linear(0, 1))"})
    assert "gradient" in str(plan)
    assert "scale(linear(0, 1))" in str(plan)
    assert ds.Plan.from_dict(plan.to_dict()) == plan
    assert plan.branches[0].gradient == gradients.scale(schedules.linear(0, 1))
    assert "gradient" not in str(ds.plan(Plain(), images(4), at=["relu1"]))
    old = plan.to_dict()  # as the first plans were, which had no rules and nothing that came after them
    for key in ("main_loss", "main_weight", "edges", "dynamic", "views", "overlap", "forwards", "prediction"):
        del old[key]
    for branch in old["branches"]:
        for key in ("gradient", "read_inside", "gate", "zero", "predicts", "extras", "optional", "prediction"):
            del branch[key]
    assert ds.Plan.from_dict(old).branches[0].gradient == gradients.add()


def test_a_rule_of_ones_own_cannot_be_stored(tmp_path: object) -> None:
    plan = ds.plan(Plain(), images(4), at=["relu1"], gradient=lambda above, branch: above)
    with pytest.raises(ds.errors.PlanError, match=r"has a gradient of your own \(custom:<lambda>\)"):
        plan.save(f"{tmp_path}/plan.json")


def test_a_rule_for_a_branch_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ds.errors.BranchNameError, match="gradient= names branch 'conv9'"):
        ds.plan(Plain(), images(4), at=["relu1"], gradient={"conv9": "project"})


@pytest.mark.parametrize("rule", ["project", "pcgrad", "mgda"])
def test_rules_are_finite_in_float16_where_one_gradient_has_all_but_vanished(rule: str) -> None:
    above, branch = torch.tensor([1e-7, 0, -1e-7]).half(), torch.tensor([-0.1, 1, 0.1]).half()
    for one, other in ((above, branch), (branch, above)):
        result = parse(rule)(one, other, ONE)
        assert result.isfinite().all()
        assert result.dtype == torch.float16
    torch.testing.assert_close(
        parse("project")(above, branch, ONE).float(), torch.tensor([0.0, 1, 0]), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(("returned", "found"), [(None, "NoneType"), (torch.zeros(1), r"a tensor of shape \(1,\)")])
def test_a_function_that_returns_something_else_is_an_error(returned: object, found: str) -> None:
    model = Plain()
    net = ds.attach(model, ds.plan(model, images(4), at=["relu1"], gradient=lambda above, branch: returned))
    with pytest.raises(ConfigError, match=rf"custom:<lambda> returned {found}; it must return what goes down"):
        ds.Objective(net.plan)(net(images(4)), torch.arange(4) % CLASSES).total.backward()


def test_progress_is_asked_for_in_eval_mode_too_where_gradients_flow() -> None:
    model = Plain()
    net = ds.attach(model, ds.plan(model, images(4), at=["relu1"], gradient="warmup(0.5)")).eval()
    with ds.supervising(net), pytest.raises(ConfigError, match=r"net\.set_progress"):
        net(images(2))
    with ds.supervising(net), torch.no_grad():
        assert set(net(images(2)).aux) == {"relu1"}


def test_a_head_that_overwrites_its_input_is_refused() -> None:
    def head(feature: ds.Feature, classes: int) -> torch.nn.Module:
        width = feature.channels * 256
        return torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Flatten(), torch.nn.Linear(width, classes))

    with pytest.raises(
        ds.errors.HeadError, match=r"overwrites the activation that it is given in place.*inplace=False"
    ):
        ds.plan(Plain(), images(4), at=["conv1"], head=head)


def test_a_factor_of_zero_sends_nothing_down() -> None:
    rule = gradients.parse("scale(0.5)")
    assert [rule.sends_nothing(f) for f in (None, torch.tensor(0.0), torch.tensor(0.5))] == [False, True, False]
