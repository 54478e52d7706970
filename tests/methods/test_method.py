"""Every method is a preset that `plan` can use as it stands, and trains as its paper's formula says.

The formulas are written out here by hand, with torch's functions alone, on copies of model and heads.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import heads, losses, methods
from deepsup.errors import BranchNameError, ClassCountError, ConfigError, HeadError, LayerError
from deepsup.layers.taps import remove_taps
from deepsup.methods import METHODS, Method
from deepsup.probes import LayerGradient, Probe
from deepsup.probes.magnitudes import Magnitudes

CLASSES = 4


def stage(width: int, out: int, stride: int) -> nn.Sequential:
    def block(width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())

    return nn.Sequential(block(width, stride), block(out, 1))


class Three(nn.Module):
    """Three stages of two blocks on 3x16x16 images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = stage(3, 4, 1), stage(4, 6, 2), stage(6, 8, 2)
        self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.pool(self.layer3(self.layer2(self.layer1(x))))))


class Case:
    """A supervised net in double precision and, beside it, copies of the same parts for the step by hand."""

    def __init__(self, method: str, at: Any = None, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = Three().double()
        plan = ds.plan(self.model, torch.randn(2, 3, 16, 16).double(), at, method=method, **options)
        self.plan = plan
        self.net = ds.attach(self.model, plan)
        for module in self.net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.trunk = copy.deepcopy(self.model)
        remove_taps(self.trunk)
        self.heads = {name: copy.deepcopy(head) for name, head in self.net.heads.items()}
        self.objective = ds.Objective(plan)
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(6, 3, 16, 16, generator=generator).double()
        self.y = torch.tensor([0, 1, 2, 0, 1, 2])

    def activations(self) -> dict[str, Tensor]:
        a = self.trunk.layer1(self.x)
        b = self.trunk.layer2(a)
        c = self.trunk.layer3(b)
        return {"<input>": self.x, "layer1": a, "layer2": b, "layer3": c, "main": self.trunk.fc(c.mean((2, 3)))}

    def check(
        self, by_hand: Callable[[dict[str, Tensor], dict[str, Any], Tensor], Tensor], progress: float = 0.5
    ) -> None:
        """The same loss and the same gradients of every parameter."""
        total = self.objective(self.net(self.x), self.y, progress=progress).total
        total.backward()
        seen = self.activations()
        layer = {b.name: b.layer for b in self.plan.branches}
        expected = by_hand(seen, {name: head(seen[layer[name]]) for name, head in self.heads.items()}, self.y)
        expected.backward()
        assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
        pairs = [(self.model, self.trunk), *((self.net.heads[n], self.heads[n]) for n in self.heads)]
        for ours, theirs in pairs:
            for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                assert (p.grad is None) == (q.grad is None), name
                if p.grad is not None:
                    assert torch.allclose(p.grad, q.grad, rtol=1e-8, atol=1e-12), name


def kl(student: Tensor, teacher: Tensor, t: float = 1.0) -> Tensor:
    p = (teacher.detach() / t).softmax(1)
    return (p * (p.log() - (student / t).log_softmax(1))).sum(1).mean()


def hinge(s: Tensor, y: Tensor) -> Tensor:
    """DSN, multiclass: the sum over wrong classes of [1 - (s_y - s_k)]+ squared, sample by sample."""
    total = s.new_zeros(())
    for row, label in zip(s, y.tolist(), strict=True):
        for k in range(CLASSES):
            if k != label:
                total = total + (1 - (row[label] - row[k])).clamp_min(0) ** 2
    return total / len(s)


def one_vs_rest(s: Tensor, y: Tensor) -> Tensor:
    signs = 2 * F.one_hot(y, CLASSES).to(s) - 1
    return ((1 - signs * s).clamp_min(0) ** 2).sum(1).mean()


ce = F.cross_entropy


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_method_is_made_of_known_parts_and_says_where_it_comes_from(method: Method) -> None:
    assert METHODS[method.name] is method
    assert methods.get(method.name) is method
    assert method.head == heads.AUTO or heads.read(method.head)
    assert callable(losses.get(method.loss))
    assert callable(losses.get(method.main_loss))
    Probe("Net", (LayerGradient("a", "a", 0.5, Magnitudes((1.0,))),), 1).recommend(method.rule)
    for text in (method.summary, method.formula, method.source, method.deviations):
        assert text == text.strip()
        assert text


ON_CLASSIFIERS = sorted(m.name for m in METHODS.values() if not m.maps)  # the others: test_segmenters.py


@pytest.mark.parametrize("name", sorted(set(ON_CLASSIFIERS) - {"cds", "equal-compute"}))
def test_every_method_trains_a_small_net_and_leaves_no_trace(name: str) -> None:
    method = METHODS[name]
    at = None if method.bare or method.places else ["layer1", "layer2"]
    case = Case(name, at)
    assert ds.Plan.from_dict(case.plan.to_dict()) == case.plan
    assert repr(case.objective).startswith("total = ")
    terms = case.objective(case.net(case.x), case.y, progress=0.5)
    terms.total.backward()
    assert terms.total.isfinite()
    assert sum(float(torch.as_tensor(terms.weights[n]) * p.detach()) for n, p in terms.parts.items()) == pytest.approx(
        float(terms.total.detach())
    )
    if case.plan.branches:
        assert ds.strip(case.net) is case.model
        assert not ds.is_supervised(case.model)


def test_none_and_label_smoothing_are_the_plain_model() -> None:
    Case("none").check(lambda a, h, y: ce(a["main"], y))

    def smoothed(a: dict[str, Tensor], h: dict[str, Any], y: Tensor) -> Tensor:
        soft = 0.9 * F.one_hot(y, CLASSES).double() + 0.1 / CLASSES
        return -(soft * a["main"].log_softmax(1)).sum(1).mean()

    Case("label-smoothing").check(smoothed)


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


def test_dsl_is_the_sum_of_the_classifiers() -> None:
    Case("dsl").check(lambda a, h, y: ce(a["main"], y) + ce(h["early"], y) + ce(h["late"], y))


def test_dhm_is_dsl_and_six_divergences_with_detached_teachers() -> None:
    def by_hand(t: float) -> Callable[..., Tensor]:
        def loss(a: dict[str, Tensor], h: dict[str, Any], y: Tensor) -> Tensor:
            outputs = [a["main"], h["early"], h["late"]]
            total = sum(ce(o, y) for o in outputs)
            for j in range(3):
                for k in range(3):
                    if j != k:
                        total = total + t * t * kl(outputs[j], outputs[k], t)
            return total

        return loss

    Case("dhm").check(by_hand(1.0))
    Case("dhm(temperature=2.0)").check(by_hand(2.0))
    Case("dks").check(by_hand(1.0))
    assert len(Case("dhm").objective.edges) == 3 + 6


def test_dynamic_mimicking_drops_terms_at_random_and_repeatably() -> None:
    case = Case("dhm(dynamic=True)")
    dropped = []
    for _ in range(40):
        terms = case.objective(case.net(case.x), case.y, progress=0.5)
        dropped.append(tuple(n for n, p in terms.parts.items() if not p.requires_grad))
        assert all("<-" in name for name in dropped[-1])
    assert len({len(d) for d in dropped}) > 2
    assert {name for d in dropped for name in d} == {e.name for e in case.plan.edges}
    again = ds.Objective(case.plan)
    again.load_state_dict({"calls": 20, "memory": {}})
    repeated = [
        tuple(n for n, p in again(case.net(case.x), case.y, progress=0.5).parts.items() if not p.requires_grad)
        for _ in range(20)
    ]
    assert repeated == dropped[20:]


def test_dml_is_whole_networks_that_teach_each_other() -> None:
    case = Case("dml")
    assert [(b.name, b.layer, b.params) for b in case.plan.branches] == [("peer1", "<input>", case.plan.params)]
    case.check(
        lambda a, h, y: ce(a["main"], y) + ce(h["peer1"], y) + kl(a["main"], h["peer1"]) + kl(h["peer1"], a["main"])
    )

    def three(a: dict[str, Tensor], h: dict[str, Any], y: Tensor) -> Tensor:
        outputs = [a["main"], h["peer1"], h["peer2"]]
        mimicry = sum(kl(outputs[i], outputs[j]) for i in range(3) for j in range(3) if i != j)
        return sum(ce(o, y) for o in outputs) + mimicry / 2

    Case("dml(peers=2)").check(three)


def test_a_peer_starts_from_weights_of_its_own_and_the_model_feels_only_the_kl() -> None:
    case = Case("dml")
    ours, theirs = case.model.layer1[0][0].weight, case.net.heads["peer1"].get_parameter("layer1.0.0.weight")
    assert ours.shape == theirs.shape
    assert not torch.equal(ours, theirs)


def test_peers_may_be_any_network_but_must_know_the_same_classes() -> None:
    def other(feature: ds.Feature, classes: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(feature.channels, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, classes)
        )

    case = Case("dml", head={"peer1": other})
    case.check(
        lambda a, h, y: ce(a["main"], y) + ce(h["peer1"], y) + kl(a["main"], h["peer1"]) + kl(h["peer1"], a["main"])
    )
    with pytest.raises(ClassCountError, match=r"branch 'peer1' predicts \(9,\) a sample, the model itself \(4,\)"):
        Case("dml", head={"peer1": lambda feature, classes: other(feature, 9)})


def test_dml_shared_and_released() -> None:
    case = Case("dml-shared")
    assert [(b.name, b.layer) for b in case.plan.branches] == [("peer1", "layer1")]
    case.check(
        lambda a, h, y: ce(a["main"], y) + ce(h["peer1"], y) + kl(a["main"], h["peer1"]) + kl(h["peer1"], a["main"])
    )
    smooth = lambda s, y: ce(s, y, label_smoothing=0.1)  # noqa: E731
    Case("dml-released").check(
        lambda a, h, y: (
            smooth(a["main"], y) + smooth(h["peer1"], y) + kl(a["main"], h["peer1"]) + kl(h["peer1"], a["main"])
        )
    )


def test_byot_teaches_scores_and_features_from_the_deepest() -> None:
    def by_hand(a: float, hint: float, squared: float) -> Callable[..., Tensor]:
        def loss(seen: dict[str, Tensor], h: dict[str, Any], y: Tensor) -> Tensor:
            total = ce(seen["main"], y)
            deepest = seen["layer3"].mean((2, 3)).detach()
            for name in ("layer1", "layer2"):
                scores, feature = h[name]["scores"], h[name]["feature"]
                total = total + (1 - a) * ce(scores, y) + a * squared * kl(scores, seen["main"], 3.0)
                total = total + hint * ((feature - deepest) ** 2).sum(1).mean()
            return total

        return loss

    Case("byot").check(by_hand(0.1, 1.28e-4, 9.0))
    Case("byot(alpha=0.4, hint=0.01)").check(by_hand(0.4, 0.01, 9.0))
    Case("byot-released").check(by_hand(0.3, 0.03, 1.0))
    names = list(Case("byot").net.train()(torch.randn(2, 3, 16, 16).double()).aux)
    assert names == ["layer1", "layer1/feature", "layer2", "layer2/feature", "deepest"]


def test_one_learns_from_its_gated_mixture() -> None:
    def loss(seen: dict[str, Tensor], h: dict[str, Any], y: Tensor) -> Tensor:
        outputs = [seen["main"], h["copy1"], h["copy2"]]
        whole = sum(h["gate"][:, i : i + 1] * o for i, o in enumerate(outputs))
        total = sum(ce(o, y) for o in outputs) + ce(whole, y)
        ramp = math.exp(-5 * (1 - 0.1 / 0.2667) ** 2)
        return total + ramp * sum(9 * kl(o, whole, 3.0) for o in outputs)

    case = Case("one")
    assert [b.layer for b in case.plan.branches] == ["layer2"] * 3
    case.check(loss, progress=0.1)


def test_cds_brings_two_crops_together() -> None:
    def supcon(z: Tensor, y: Tensor) -> Tensor:
        """Khosla et al. 2020, eq. 2, anchor by anchor."""
        z = F.normalize(z, dim=1)
        total = z.new_zeros(())
        for i in range(len(z)):
            others = [j for j in range(len(z)) if j != i]
            positives = [j for j in others if y[j] == y[i]]
            bottom = torch.stack([(z[i] @ z[j] / 0.07).exp() for j in others]).sum().log()
            total = total - sum(z[i] @ z[p] / 0.07 - bottom for p in positives) / len(positives)
        return total / len(z)

    case = Case("cds")
    assert case.plan.views == 2
    case.check(
        lambda a, h, y: (
            ce(a["main"], y) + 0.1 * (supcon(h["layer1"], y) + supcon(h["layer2"], y) + supcon(h["deepest"], y))
        )
    )
    assert not any(b.predicts for b in case.plan.branches)
    with torch.no_grad(), ds.supervising(case.net.eval()):  # scored with one crop an image, of an odd number of images
        assert list(case.objective(case.net(case.x[:5]), case.y[:5], progress=1).parts) == ["main"]


def test_a_method_of_two_crops_refuses_a_batch_of_one() -> None:
    case = Case("cds")
    with pytest.raises(ConfigError, match=r"method 'cds' compares two crops of each image: .* Set data.views=2"):
        case.objective(case.net(case.x), torch.tensor([0, 1, 2, 0, 1, 3]), progress=0)


def test_dlb_learns_from_what_it_said_one_batch_before() -> None:
    case = Case("dlb")
    first = case.objective(case.net(case.x[:3]), case.y[:3])
    assert float(first.parts["main<-previous"].detach()) == 0
    said = case.trunk(case.x[:3])
    assert float(first.total.detach()) == pytest.approx(float(ce(said, case.y[:3]).detach()))
    second = case.objective(case.net(case.x), case.y)
    now = case.trunk(case.x)
    expected = ce(now, case.y) + 9 * kl(now[:3], said, 3.0)
    assert float(second.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
    second.total.backward()
    expected.backward()
    for p, q in zip(case.model.parameters(), case.trunk.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-8, atol=1e-12)
    assert torch.equal(case.objective.memory["previous"], now[3:].detach())
    with torch.no_grad():  # scoring neither uses nor moves the memory
        assert list(case.objective(case.net(case.x[:2]), case.y[:2]).parts) == ["main"]
    assert len(case.objective.memory["previous"]) == 3


def test_dlb_says_when_batches_do_not_overlap() -> None:
    case = Case("dlb")
    case.objective(case.net(case.x), case.y)
    with pytest.raises(ConfigError, match=r"this method learns from the batch before, .* Set data.overlap=true"):
        case.objective(case.net(case.x.repeat(2, 1, 1, 1)), (case.y + 1).repeat(2) % CLASSES)
    case = Case("dlb")
    case.objective(case.net(case.x), case.y)
    with pytest.raises(ConfigError, match="these do not"):
        case.objective(case.net(case.x), case.y)


@pytest.mark.parametrize("sizes", [[4] * 3, [4, 4, 1], [4, 3]])
def test_dlb_begins_anew_where_a_loader_does(sizes: list[int]) -> None:
    """Each image holds its number, so that every step can be told which samples it was distilled from."""
    from deepsup.evaluation.loaders import overlapping

    case = Case("dlb")
    numbers = iter(range(100))
    data = [(torch.zeros(n, 3, 16, 16).double() + next(numbers), torch.randint(0, CLASSES, (n,))) for n in sizes]
    data = [(x, torch.arange(i, i + len(y)) % CLASSES) for i, (x, y) in enumerate(data)]
    for _ in range(3):
        last = None
        for x, y in overlapping(data):
            said, rows = case.objective.memory.get("previous"), 0 if last is None else len(last)
            part = case.objective(case.net(x), y).parts["main<-previous"]
            expected = 0.0 if said is None or not rows else 9 * float(kl(case.trunk(x)[:rows], said, 3.0).detach())
            assert float(part.detach()) == pytest.approx(expected, rel=1e-9)
            assert rows == 0 or torch.equal(x[:rows], last)
            last = x[rows:]
            assert len(case.objective.memory["previous"]) == len(last)
            assert torch.equal(case.objective.memory["labels"], y[rows:])


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


def test_a_frozen_model_still_trains_its_heads() -> None:
    torch.manual_seed(0)
    model = Three().requires_grad_(False)
    net = ds.attach(model, ds.plan(model, torch.randn(2, 3, 16, 16), method="cds"))
    terms = ds.Objective(net.plan)(net(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 0, 1]))
    assert list(terms.parts) == ["main", "layer1", "layer2", "deepest"]
    terms.total.backward()
    assert all(p.grad is not None for p in net.heads.parameters())


def test_a_term_without_its_output_is_refused_and_names_do_not_collide() -> None:
    with pytest.raises(
        HeadError, match="method 'byot' holds 'layer1/feature' against 'deepest', but the heads give out"
    ):
        Case("byot", head="pool")
    for method, at in (
        ("byot", {"deepest": "layer1", "b": "layer2"}),
        ("dml-shared(peers=2)", {"a": "layer1", "a1": "layer2"}),
    ):
        with pytest.raises(BranchNameError, match="the method has a branch of its own called"):
            Case(method, at)
    with pytest.raises(BranchNameError, match="without '/' and '<-'"):
        Case("dhm", {"main<-late": "layer1", "late": "layer2"})


def test_a_layer_called_input_is_a_layer() -> None:
    class In(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.out = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.input(x)))

    model, x = In(), torch.randn(4, 16)
    net = ds.attach(model, ds.plan(model, x, ["input"]))
    assert torch.equal(net(x).aux["input"], net.heads["input"](model.input(x)))
    ds.strip(net)
    other = ds.plan(model, x, method="dml")
    assert [b.layer for b in other.branches] == ["<input>"]
    assert ds.attach(model, other)(x).aux["peer1"].shape == (4, 4)


def test_readers_that_send_nothing_do_not_count_as_outputs() -> None:
    case = Case("byot", gradient="equilibrium")
    factors = {n: float(case.net.taps[n].factor) for n in ("layer1", "layer2")}
    assert factors == pytest.approx({"layer1": 2 / 3, "layer2": 1 / 2})


def test_the_mixture_has_the_loss_of_the_branches() -> None:
    plan = Case("one", loss="squared_hinge").plan
    assert next(e.loss for e in plan.edges if e.source == "ensemble") == "squared_hinge"


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


@pytest.mark.parametrize("name", ["aux", "dsn", "cnds", "dhm", "byot", "dml"])
def test_zero_initialised_heads_send_no_gradient_into_the_trunk_at_first(name: str) -> None:
    at = ["layer1", "layer2"] if METHODS[name].places is None else None
    case = Case(name, at, zero_heads=True)
    scoring = [b.name for b in case.plan.branches if b.predicts]
    assert [b.name for b in case.plan.branches if b.zero] == scoring
    assert len(scoring) >= 1
    outputs = case.net(case.x)
    assert all(not torch.count_nonzero(outputs.aux[n]) for n in scoring)


def test_settings_for_all_branches_leave_a_methods_own_readers_alone() -> None:
    plan = Case("byot", weight=0.25).plan
    assert [(b.name, b.weight(0)) for b in plan.branches] == [("layer1", 0.25), ("layer2", 0.25), ("deepest", 0.0)]
    with pytest.raises(BranchNameError, match="weight= names branch 'layer9', which is not there"):
        Case("byot", weight={"layer9": 0.25})


def test_methods_that_place_themselves_can_be_placed_by_the_user() -> None:
    plan = Case("dhm", {"a": "layer1", "b": "layer2"}).plan
    assert [(b.name, b.layer) for b in plan.branches] == [("a", "layer1"), ("b", "layer2")]
    assert [b.head for b in plan.branches] == [b.head for b in Case("dhm").plan.branches]
    assert len(plan.edges) == 6


def test_a_model_without_stages_is_told_to_say_where() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(LayerError, match=r"has none: the activations on its way keep their size. Say where: at="):
        ds.plan(model, torch.randn(2, 12), method="byot")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dhm(temperature=0)", "method 'dhm' needs temperature to be a finite number above 0; found 0."),
        ("dml(peers=0)", "method 'dml' needs peers to be a whole number of at least 1; found 0."),
        ("byot(alpha=2)", "method 'byot' needs alpha to be a number from 0 to 1; found 2."),
        ("dsn(gamma=-1)", "method 'dsn' needs gamma to be a number of at least 0; found -1."),
        ("byot(hint='x')", "needs hint to be a number of at least 0; found 'x'."),
        (
            "label-smoothing(smoothing=1.5)",
            "method 'label-smoothing' needs smoothing to be a number from 0 to 1; found 1.5.",
        ),
        ("aux(weight=-1)", "needs weight to be a number of at least 0; found -1."),
        ("dhm(dynamic=3)", "needs dynamic to be True or False; found 3."),
        ("dsn(decay='square')", "method 'dsn' needs decay to be 'linear' or 'iterated' or 'constant'; found 'square'."),
        ("one(branches=1)", "needs branches to be a whole number of at least 2; found 1."),
        ("cds(loss='triplet')", "needs loss to be 'supcon' or 'simclr'; found 'triplet'."),
        ("dhm(heat=2)", "has no option 'heat'. Options: temperature, weight, dynamic."),
        ("cnd", "no method is called 'cnd'. Closest: cnds. Methods: aux, googlenet,"),
        ("dml-relased(peers=2)", "Closest: dml-released."),
    ],
)
def test_impossible_methods_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        methods.get(text)
    assert message in str(caught.value)


def test_a_text_with_options_names_the_method() -> None:
    assert methods.get("dhm(temperature=2, dynamic=True)").name == "dhm(temperature=2, dynamic=True)"
    assert methods.get("dml-released(peers=2)").name == "dml-released(peers=2)"


def test_reserved_names_are_refused() -> None:
    for name in ("main", "ensemble", "previous", "y"):
        with pytest.raises(BranchNameError, match=f"no branch may be called '{name}'"):
            Case("aux", {name: "layer1"})


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


def test_settings_that_make_another_method_of_it_are_refused_or_told() -> None:
    with pytest.raises(
        ConfigError, match=r"method 'dhm' says itself where its branches go .*; at='auto' would ask the probe"
    ):
        Case("dhm", "auto")
    with pytest.raises(
        ConfigError, match="method 'dml' trains whole networks on the model's input, not from layer 'layer1' on"
    ):
        Case("dml", ["layer1"])
    with pytest.raises(ConfigError, match="method 'equal-compute' is a length of training, not a plan"):
        Case("equal-compute")
    notes = Case("dhm", head="pool").plan.notes
    assert notes[0] == "branch 'early' has the head pool; method 'dhm' has continuation"
    assert Case("dhm").plan.notes == ()


def test_a_plan_says_what_its_batches_hold_and_what_it_drops() -> None:
    assert "a batch holds two crops of each image: twice the FLOPs" in str(Case("cds").plan)
    assert "1 * kl(temperature=3): main <- previous" in str(Case("dlb").plan)
    assert "the samples of the one before as well" in str(Case("dlb").plan)
    assert "each step drops a random part" in str(Case("dhm(dynamic=True)").plan)
    assert repr(Case("dhm(dynamic=True)").objective).endswith("drops a random part of the terms between outputs")
