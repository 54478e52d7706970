"""Methods with branches against the labels train as their papers' formulas say, written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import deepsup as ds
from deepsup import networks
from tests.support.method_steps import Case, ce, hinge, one_vs_rest


def test_aux_and_googlenet_weigh_by_0_3() -> None:
    for name in ("aux", "googlenet"):
        Case(name, ["layer1", "layer2"]).check(
            lambda a, h, y: ce(a["main"], y) + 0.3 * ce(h["layer1"], y) + 0.3 * ce(h["layer2"], y)
        )


def test_googlenet_puts_its_branches_where_they_were_published() -> None:
    import torchvision

    model = torchvision.models.googlenet(num_classes=7, aux_logits=False, init_weights=False)
    plan = ds.plan(model, torch.randn(2, 3, 64, 64), method="googlenet")
    assert plan.names == ("inception4a", "inception4d")
    assert [b.feature.channels for b in plan.branches] == [512, 528]
    assert plan.branches[0].params == 512 * 128 + 128 + 2048 * 1024 + 1024 + 1024 * 7 + 7


def test_dsn_is_the_gated_hinge_with_a_fading_weight() -> None:
    def by_hand(gamma: float, norm: float) -> Callable[..., Tensor]:
        def loss(a: dict[str, Tensor], h: dict[str, Any], y: Tensor) -> Tensor:
            total = hinge(a["main"], y)
            for name in ("layer1", "layer2"):
                bracket = norm * sum((p**2).sum() for p in case.heads[name].parameters() if p.ndim > 1)
                total = total + 0.5 * torch.relu(
                    bracket + hinge(h[name], y) - gamma
                )  # alpha 1, half of the training done
            return total

        return loss

    case = Case("dsn")
    case.check(by_hand(0.1, 2e-5))
    case = Case("dsn(gamma=0.5, norm=0.01)")
    case.check(by_hand(0.5, 0.01))


@pytest.mark.parametrize(
    ("method", "start"), [("dsn", ""), ("dsn-released", "start='released'"), ("dsn(loss='cross_entropy')", "")]
)
def test_dsn_reads_maps_as_published_and_normalised_where_the_network_normalises(method: str, start: str) -> None:
    published = f"linear({start})" if start else "linear"
    normalised = f"linear({', '.join(filter(None, [start, 'normalised=True']))})"
    for spec, head in (
        ("deepsup:nin", published),
        ("deepsup:plain-12", published),
        ("deepsup:resnet-8", normalised),
        ("deepsup:densenet-10-4", normalised),
    ):
        plan = ds.plan(networks.build(spec, classes=7), torch.zeros(2, 3, 32, 32), method=method)
        assert {b.head for b in plan.branches} == {head}, spec


def test_below_gamma_a_branch_of_dsn_sends_no_gradient_at_all() -> None:
    case = Case("dsn(gamma=1000.0)")
    terms = case.objective(case.net(case.x), case.y, progress=0.0)
    terms.total.backward()
    assert [float(terms.parts[n].detach()) for n in ("layer1", "layer2")] == [0, 0]
    for head in (case.net.heads["layer1"], case.net.heads["layer2"]):
        assert all(torch.count_nonzero(p.grad) == 0 for p in head.parameters())
    main = case.trunk(case.x)
    hinge(main, case.y).backward()
    for p, q in zip(case.model.parameters(), case.trunk.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-13)


def test_dsn_has_the_softmax_variant_the_literal_decay_and_the_released_form() -> None:
    case = Case("dsn(loss='cross_entropy', gamma=0.0, norm=0.0, decay='iterated')", epochs=10)
    factor = 0.1 * (1 - 0 / 10) * 0.1 * (1 - 1 / 10)  # in the third of ten epochs, t having been 0 and 1
    case.check(lambda a, h, y: ce(a["main"], y) + factor * (ce(h["layer1"], y) + ce(h["layer2"], y)), progress=0.2)
    released = "dsn-released"
    total = lambda a, h, y: sum(one_vs_rest(s, y) for s in (a["main"], h["layer1"], h["layer2"]))  # noqa: E731
    Case(released).check(total, progress=0.2)
    Case(released).check(lambda a, h, y: one_vs_rest(a["main"], y) + 0 * total(a, h, y), progress=0.6)


def test_cnds_decays_by_the_paper_and_stays_as_released() -> None:
    def plus(weight: float) -> Callable[..., Tensor]:
        return lambda a, h, y: ce(a["main"], y) + weight * ce(h["layer2"], y)

    Case("cnds", ["layer2"], epochs=10).check(plus(0.3 * math.prod(1 - s / 10 for s in range(1, 6))))
    Case("cnds(reading='linear')", ["layer2"], epochs=10).check(plus(0.15))
    Case("cnds-released", ["layer2"]).check(plus(0.4))


def test_sdn_weights_rise_to_the_depth_of_their_classifier() -> None:
    case = Case("sdn")
    depths = {b.name: max(case.plan.branches[i].depth, 0.01) for i, b in enumerate(case.plan.branches)}
    assert len(depths) >= 3
    for progress in (0.0, 0.4, 1.0):
        weights = case.objective(case.net(case.x), case.y, progress=progress).weights
        assert {n: weights[n] for n in depths} == pytest.approx(
            {n: min(d, 0.01 + progress * d) for n, d in depths.items()}
        )


def test_adaloss_weighs_by_the_inverse_of_running_means() -> None:
    case = Case("adaloss")
    means: dict[str, float] = {}
    for _ in range(3):
        terms = case.objective(case.net(case.x), case.y)
        parts = {n: float(p.detach()) for n, p in terms.parts.items()}
        means = {n: p if n not in means else 0.9 * means[n] + 0.1 * p for n, p in parts.items()}
        assert {n: float(w) for n, w in terms.weights.items() if n != "main"} == pytest.approx(
            {n: means["main"] / means[n] for n in ("layer1", "layer2")}, rel=1e-5
        )
    assert terms.weights["main"] == 1
    assert not any(isinstance(w, Tensor) and w.requires_grad for w in terms.weights.values())


def test_equilibrium_gives_each_output_an_equal_say_at_each_tap() -> None:
    case = Case("equilibrium")
    assert [repr(b.gradient) for b in case.plan.branches] == ["equilibrium", "equilibrium"]
    case.objective(case.net(case.x), case.y).total.backward()
    a = case.trunk.layer1(case.x)
    b = case.trunk.layer2(a.detach().requires_grad_())
    below = b.detach().requires_grad_()
    main = case.trunk.fc(case.trunk.layer3(below).mean((2, 3)))
    (above,) = torch.autograd.grad(ce(main, case.y), below)
    (branch,) = torch.autograd.grad(ce(case.heads["layer2"](below), case.y), below)
    expected = torch.autograd.grad(b, list(case.trunk.layer2.parameters()), (above + branch) / 2)  # one output above
    for p, q in zip(case.model.layer2.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, q, rtol=1e-8, atol=1e-12)
