"""Methods whose outputs learn from one another train as their papers' formulas say, written out by hand."""

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
from deepsup import networks
from deepsup.errors import BranchNameError, ClassCountError, ConfigError, HeadError
from deepsup.layers.taps import remove_taps
from tests.support.method_steps import CLASSES, Case, Three, ce, kl


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


@pytest.mark.parametrize("spread", [1.0, 300.0])
@pytest.mark.parametrize(
    ("method", "t"), [("dhm(eps=1e-8)", 1), ("dhm(temperature=2, eps=1e-8)", 2), ("dks(eps=1e-8)", 1)]
)
def test_dhm_and_dks_as_released_smooth_every_probability(method: str, t: float, spread: float) -> None:
    def smoothed(scores: Tensor) -> Tensor:
        return ((scores / t).softmax(1) + 1e-8) / (1 + CLASSES * 1e-8)

    def loss(a: dict[str, Tensor], h: dict[str, Any], y: Tensor) -> Tensor:
        outputs = [a["main"], h["early"], h["late"]]
        total = sum(ce(o, y) for o in outputs)
        for student in outputs:
            for teacher in (o for o in outputs if o is not student):
                p, q = smoothed(teacher.detach()), smoothed(student)
                total = total + t * t * (p * (p / q).log()).sum(1).mean()
        return total

    case = Case(method)
    with torch.no_grad():
        for fc in (case.model.fc, case.trunk.fc):
            fc.weight *= spread
    case.check(loss)


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

    def ratio(student: Tensor, teacher: Tensor) -> Tensor:
        p, q = teacher.detach().softmax(1), student.softmax(1)
        return (p * (1e-8 + p / (q + 1e-8)).log()).sum(1).mean()

    for spread in (1.0, 300.0):
        case = Case("dml-released")
        with torch.no_grad():
            for fc in (case.model.fc, case.trunk.fc):
                fc.weight *= spread
        case.check(
            lambda a, h, y: (
                smooth(a["main"], y)
                + smooth(h["peer1"], y)
                + ratio(a["main"], h["peer1"])
                + ratio(h["peer1"], a["main"])
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
    names = list(Case("byot").net.train()(torch.randn(2, 3, 16, 16).double()).aux)
    assert names == ["layer1", "layer1/feature", "layer2", "layer2/feature", "deepest"]


class Separable(nn.Module):
    """ArchipLab-LinfengZhang/pytorch-self-distillation-final, resnet.py: what it calls SepConv."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        depthwise = [nn.Conv2d(a, a, 3, stride=s, padding=1, groups=a, bias=False) for s in (2, 1)]
        first = [depthwise[0], nn.Conv2d(a, a, 1, bias=False), nn.BatchNorm2d(a), nn.ReLU()]
        second = [depthwise[1], nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.op = nn.Sequential(*first, *second)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Gated(nn.Module):
    """There: one shallow classifier, `fea = attention(x) * x`, `scala`, `fc`, and perhaps an adaptation layer."""

    def __init__(self, width: int, steps: int, classes: int, *, adapted: bool) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            Separable(width, width), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Sigmoid()
        )
        self.scala = nn.Sequential(*(Separable(width << i, width << i + 1) for i in range(steps)), nn.AvgPool2d(4, 4))
        self.fc = nn.Linear(width << steps, classes)
        self.adaptation = nn.Linear(width << steps, width << steps) if adapted else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        feature = self.scala(self.attention(x) * x).flatten(1)
        return self.fc(feature), self.adaptation(feature) if self.adaptation else None


@pytest.mark.parametrize("depth", [18, 50])
def test_byot_as_released_is_that_code_on_its_own_networks(depth: int) -> None:
    torch.manual_seed(0)
    model = networks.resnet_3x3(depth, classes=7).double()
    x, y = torch.randn(3, 3, 32, 32).double(), torch.tensor([1, 6, 3])
    plan = ds.plan(model, x, method="byot-released")
    net = ds.attach(model, plan)
    trunk = copy.deepcopy(model)
    remove_taps(trunk)
    theirs = nn.ModuleDict()
    for i, (name, width) in enumerate(zip(("layer1", "layer2", "layer3"), (64, 128, 256), strict=True)):
        theirs[name] = Gated(width * (4 if depth == 50 else 1), 3 - i, 7, adapted=i < 2).double()
        ours = net.heads[name].state_dict()
        assert [tuple(v.shape) for v in theirs[name].state_dict().values()] == [tuple(v.shape) for v in ours.values()]
        theirs[name].load_state_dict(dict(zip(theirs[name].state_dict(), ours.values(), strict=True)))
    total = ds.Objective(plan)(net(x), y).total
    total.backward()

    a, stages = trunk.relu(trunk.bn1(trunk.conv1(x))), {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        stages[name] = a = getattr(trunk, name)(a)
    feature = F.avg_pool2d(a, 4).flatten(1)
    main, teacher = trunk.fc(feature), feature.detach()
    soft = (main.detach() / 3).softmax(1)
    loss = ce(main, y)
    for name in ("layer3", "layer2", "layer1"):  # as its outputs are ordered; `if index != 1` leaves out the first
        scores, adapted = theirs[name](stages[name])
        loss = loss - 0.3 * ((scores / 3).log_softmax(1) * soft).sum(1).mean() + 0.7 * ce(scores, y)
        if adapted is not None:
            loss = loss + 0.03 * torch.dist(adapted, teacher)
    loss.backward()
    for ours, others in ((model, trunk), *((net.heads[n], theirs[n]) for n in theirs)):
        for p, q in zip(ours.parameters(), others.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=1e-6, atol=1e-10 * float(q.grad.abs().max()) + 1e-14)
    constant = 3 * 0.3 * float((soft * soft.log()).sum(1).mean())
    assert float(total.detach()) == pytest.approx(float(loss.detach()) + constant, rel=1e-10)


@pytest.mark.parametrize(("at", "held"), [(["layer1"], []), (["layer2", "layer1"], ["layer1"])])
def test_byot_as_released_adapts_no_feature_that_nothing_reads(at: list[str], held: list[str]) -> None:
    case = Case("byot-released", at)
    case.objective(case.net(case.x), case.y).total.backward()
    assert [e.source for e in case.plan.edges if e.target == "deepest"] == [f"{name}/feature" for name in held]
    assert all(p.grad is not None for p in case.net.heads.parameters())


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


def test_the_ramp_of_one_moves_by_epoch_as_released() -> None:
    edges = [e for e in Case("one", epochs=300).plan.edges if e.target == "ensemble"]
    assert len(edges) == 3
    for epoch, within in ((0, 0.5), (0, 0.99), (40, 0.3), (79, 0.9), (80, 0.0), (299, 0.9)):
        released = math.exp(-5 * (1 - min(epoch, 80) / 80) ** 2)
        assert all(e.weight((epoch + within) / 300) == pytest.approx(released, rel=2e-3) for e in edges)


# Lan1991Xu/ONE_NeurIPS2018, models/cifar/resnet.py: bottlenecks from 44 layers on, projections, three copies of the last
# stage with a classifier each, the gate's linear layer and normalisation on what they share.
def _one_parameters(depth: int, classes: int, *, bottleneck: bool) -> int:
    wide = 4 if bottleneck else 1
    channels, total = 16, 3 * 9 * 16 + 2 * 16
    for stage, width in enumerate((16, 32, 64)):
        shared = channels
        params = 0
        for block in range((depth - 2) // 6):
            out = wide * width
            if bottleneck:
                params += channels * width + 9 * width**2 + width * out + 4 * width + 2 * out
            else:
                params += 9 * channels * width + 9 * width**2 + 4 * width
            if block == 0 and (stage > 0 or channels != out):
                params += channels * out + 2 * out
            channels = out
        total += params if stage < 2 else 3 * params
    return total + 3 * (channels + 1) * classes + 3 * shared + 3 + 2 * 3


@pytest.mark.parametrize(
    ("depth", "classes", "options", "expected"),
    [
        (110, 100, {"block": "bottleneck"}, 4_363_653),
        (110, 10, {"block": "bottleneck"}, None),
        (32, 100, {"shortcut": "project"}, None),
        (110, 100, {"shortcut": "project"}, 4_380_581),  # what basic blocks would have: not the released network
    ],
)
def test_one_on_the_released_networks_has_their_parameters(
    depth: int, classes: int, options: dict[str, Any], expected: int | None
) -> None:
    with torch.device("meta"):
        model = networks.build(f"deepsup:resnet-{depth}", classes=classes, options=options)
        plan = ds.plan(model, torch.zeros(2, 3, 32, 32), method="one")
    by_hand = _one_parameters(depth, classes, bottleneck="block" in options)
    assert plan.cost["trunk_params"] + plan.cost["head_params"] == by_hand
    assert expected in (None, by_hand)


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


def _pairs(batches: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of two views, `[view 1; view 2]`, of three images each."""
    stream = torch.Generator().manual_seed(2)
    found = []
    for _ in range(batches):
        x, y = torch.randn(3, 3, 16, 16, generator=stream), torch.randint(0, CLASSES, (3,), generator=stream)
        views = [x + 0.3 * torch.randn(x.shape, generator=stream) for _ in range(2)]
        found.append((torch.cat(views).double(), y.repeat(2)))
    return found


def _released_dlb(model: nn.Module, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Meta-knowledge-Lab/DLB dlb.py: the new samples in their first view, those of before in their second, two forwards."""
    optimizer, before = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True), None
    for x, y in pairs:
        out = model(x[:3])
        loss = ce(out, y[:3])
        if before is not None:
            again, labels, said = before
            out_before = model(again)
            loss = ce(torch.cat([out_before, out]), torch.cat([labels, y[:3]])) + 9 * kl(out_before, said, 3.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before = (x[3:], y[3:], out)


@pytest.mark.parametrize("training", [False, True])
def test_dlb_as_released_is_two_forwards_of_two_augmentations(training: bool) -> None:
    """One forward of `overlapping(..., views=2)` is the same but for batch normalisation, two forwards are the same."""
    from deepsup.evaluation.loaders import overlapping
    from deepsup.supervision.halves import outputs_of

    case, theirs = Case("dlb"), Three().double()
    theirs.load_state_dict(case.trunk.state_dict())
    pairs = _pairs(5)
    _released_dlb(theirs.train(training), pairs)
    optimizer = torch.optim.SGD(case.model.parameters(), 0.1, momentum=0.9, nesterov=True)
    case.model.train(training)
    for x, y in overlapping(pairs, views=2):
        main = outputs_of(case.model, case.objective, x, y)
        if not training:
            assert torch.allclose(main, case.model(x), atol=1e-12)  # one forward will do
        loss = case.objective(main, y).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for (name, ours), other in zip(case.model.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.allclose(ours.double(), other.double(), rtol=1e-9, atol=1e-12), name


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


def test_readers_that_send_nothing_do_not_count_as_outputs() -> None:
    case = Case("byot", gradient="equilibrium")
    factors = {n: float(case.net.taps[n].factor) for n in ("layer1", "layer2")}
    assert factors == pytest.approx({"layer1": 2 / 3, "layer2": 1 / 2})


def test_the_mixture_has_the_loss_of_the_branches() -> None:
    plan = Case("one", loss="squared_hinge").plan
    assert next(e.loss for e in plan.edges if e.source == "ensemble") == "squared_hinge"
