"""The conflict meter against one backward a loss, on nets whose branches nest."""

from __future__ import annotations

import copy
import pickle
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchjd import aggregation

import deepsup as ds
from deepsup.errors import AttachError
from deepsup.supervision import conflict_meter
from deepsup.supervision.conflict_meter import Conflict, summarise
from tests.support.small_nets import CLASSES, Plain, mlp

LABELS = torch.arange(4) % CLASSES
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def supervised(*, at: tuple[str, ...] = ("relu1", "relu2"), **options: object) -> tuple[ds.Supervised, ds.Objective]:
    torch.manual_seed(0)
    model = Plain()
    plan = ds.plan(model, IMAGES, at=list(at), head="linear", **{"weight": 0.7, **options})  # type: ignore[arg-type]
    return ds.attach(model, plan), ds.Objective(plan)


def slow(net: ds.Supervised, objective: ds.Objective) -> dict[str, tuple[float, float]]:
    """Cosine and ratio with one backward a loss, at the activations themselves."""
    held: dict[str, Tensor] = {}
    handles = [
        net.model.get_submodule(b.layer).register_forward_hook(
            lambda m, a, out, name=b.name: held.__setitem__(name, out), prepend=True
        )
        for b in net.plan.branches
    ]
    terms = objective(net(IMAGES), LABELS)
    for handle in handles:
        handle.remove()
    found = {}
    for i, name in enumerate(net.plan.names):
        higher = ["main", *net.plan.names[i + 1 :]]
        over = sum(terms.weights[n] * terms.parts[n] for n in higher)
        (above,) = torch.autograd.grad(over, held[name], retain_graph=True)
        (branch,) = torch.autograd.grad(terms.weights[name] * terms.parts[name], held[name], retain_graph=True)
        cosine = F.cosine_similarity(above.flatten(), branch.flatten(), dim=0)
        found[name] = (cosine.item(), (branch.norm() / above.norm()).item())
    return found


def test_the_meter_equals_one_backward_a_loss_also_where_branches_nest() -> None:
    net, objective = supervised()
    expected = slow(*supervised())
    meter = ds.ConflictMeter(net)
    objective(net(IMAGES), LABELS).total.backward()
    meter.step()
    for name, found in meter.read().items():
        assert found.cosine == pytest.approx(expected[name][0], abs=1e-5)
        assert found.ratio == pytest.approx(expected[name][1], rel=1e-4)
        assert found.kept == pytest.approx(1 + found.ratio * found.cosine, abs=1e-5)
        assert found.share == float(found.cosine < 0)
        assert found.steps == 1
    assert expected["relu1"] != pytest.approx(expected["relu2"])


def test_measuring_changes_no_gradient_and_closing_leaves_nothing() -> None:
    plain, objective = supervised()
    metered, _ = supervised()
    with ds.ConflictMeter(metered):
        for net in (plain, metered):
            objective(net(IMAGES), LABELS).total.backward()
    for (name, one), other in zip(plain.named_parameters(), metered.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name
    assert all(tap.slot is None for tap in metered.taps.values())
    assert list(metered.state_dict()) == list(plain.state_dict())


def test_batches_before_one_step_count_as_one_large_batch() -> None:
    x, y = torch.cat([IMAGES, IMAGES.flip(0)]), torch.cat([LABELS, LABELS + 1]) % CLASSES
    whole, objective = supervised()
    halves, _ = supervised()
    with ds.ConflictMeter(whole) as one, ds.ConflictMeter(halves) as two:
        objective(whole(x), y).total.backward()
        for part in (slice(0, 4), slice(4, 8)):
            (objective(halves(x[part]), y[part]).total / 2).backward()
        one.step(), two.step()
        for name, found in one.read().items():
            assert two.read()[name].cosine == pytest.approx(found.cosine, abs=1e-5)
            assert two.read()[name].ratio == pytest.approx(found.ratio, rel=1e-4)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("detach", lambda c: 1.0),
        ("scale(0.5)", lambda c: 1 + 0.5 * c.ratio * c.cosine),
        ("project", lambda c: 1 + max(0.0, c.ratio * c.cosine)),
        ("equilibrium", lambda c: 0.5 + 0.5 * c.ratio * c.cosine),
    ],
)
def test_kept_says_what_a_rule_leaves_of_the_gradient_from_above(rule: str, kept: object) -> None:
    net, objective = supervised(at=("relu1",), gradient=rule, weight=30.0)
    with ds.ConflictMeter(net) as meter:
        for seed in range(6):
            objective(net(IMAGES + seed), LABELS.roll(seed)).total.backward()
            meter.step()
        for found in meter.steps()["relu1"]:
            assert found.kept == pytest.approx(kept(found), rel=1e-3, abs=1e-3)  # type: ignore[operator]


def test_a_branch_of_weight_zero_and_a_frozen_trunk_have_no_conflict() -> None:
    net, objective = supervised(weight={"relu1": 0.0, "relu2": 1.0})
    with ds.ConflictMeter(net) as meter:
        objective(net(IMAGES), LABELS).total.backward()
        meter.step()
        assert meter.read()["relu1"] == Conflict(None, None, None, None, 1)
        assert meter.read()["relu2"].cosine is not None
        assert "relu1   not measured: no step in which both gradients met" in str(meter)
    model = mlp(4, 8, CLASSES)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    plan = ds.plan(model, torch.randn(4, 4), at=["1"])
    frozen = ds.attach(model, plan)
    with ds.ConflictMeter(frozen) as meter:
        ds.Objective(plan)(frozen(torch.randn(4, 4)), LABELS).total.backward()
        meter.step()
        assert meter.read()["1"].cosine is None


def test_gradients_that_are_not_finite_are_left_out() -> None:
    rows = torch.tensor([[[1.0, 1.0, 4.0, 2.0]], [[float("nan"), 1.0, 1.0, 1.0]], [[-1.0, 1.0, 1.0, 0.0]]])
    found = summarise(["a"], rows)["a"]
    assert found == Conflict(cosine=-0.25, ratio=pytest.approx(2**0.5), kept=1.0, share=0.5, steps=3, met=2)
    assert summarise(["a"], torch.zeros(0, 1, 4)) == {"a": Conflict(None, None, None, None, 0)}


def test_the_table_says_what_was_found() -> None:
    net, objective = supervised()
    with ds.ConflictMeter(net) as meter:
        objective(net(IMAGES), LABELS).total.backward()
        meter.step()
        lines = str(meter).splitlines()
    assert lines[0] == "gradients of the branches against what comes from above, 1 steps"
    assert lines[1].split() == ["branch", "cosine", "in", "conflict", "ratio", "kept"]
    assert [line.split()[0] for line in lines[2:]] == ["relu1", "relu2"]


def test_a_meter_needs_branches() -> None:
    with pytest.raises(AttachError, match="is not supervised"):
        ds.ConflictMeter(Plain())
    model = Plain()
    net = ds.attach(model, ds.plan(model, IMAGES, method="none"))
    with pytest.raises(AttachError, match="there is no branch on this net"):
        ds.ConflictMeter(net)


def test_a_metered_net_can_be_copied_pickled_and_stripped() -> None:
    net, objective = supervised()
    with ds.ConflictMeter(net):
        objective(net(IMAGES), LABELS).total.backward()
        twin = pickle.loads(pickle.dumps(copy.deepcopy(net)))
        objective(twin(IMAGES), LABELS).total.backward()
        model = ds.strip(net)
        assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_a_metered_step_with_a_rule_compiles_into_one_graph(backend: str) -> None:
    eager, objective = supervised(gradient={"relu1": "project", "relu2": "warmup(0.5)"})
    compiled, _ = supervised(gradient={"relu1": "project", "relu2": "warmup(0.5)"})
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # which reset does not
    fast = torch.compile(compiled, fullgraph=True, backend=backend)
    with ds.ConflictMeter(eager) as one, ds.ConflictMeter(fast) as two:
        for progress in (0.0, 0.25, 1.0):
            for net, call in ((eager, eager), (compiled, fast)):
                net.set_progress(progress)
                net.zero_grad()
                objective(call(IMAGES), LABELS, progress=progress).total.backward()
            one.step(), two.step()
            for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
                torch.testing.assert_close(p.grad, q.grad)
        for a, b in zip(one.steps()["relu1"], two.steps()["relu1"], strict=True):
            assert a.cosine == pytest.approx(b.cosine, abs=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_parameter_conflicts_equal_gradients_of_each_loss_alone() -> None:
    net, objective = supervised()
    terms = objective(net(IMAGES), LABELS)
    found = ds.parameter_conflicts(net, terms)
    conv1 = list(net.model.conv1.parameters())

    def gradient(*names: str) -> Tensor:
        total = sum(terms.weights[n] * terms.parts[n] for n in names)
        return torch.cat([g.flatten() for g in torch.autograd.grad(total, conv1, retain_graph=True)])

    above, branch = gradient("main", "relu2"), gradient("relu1")
    assert found["relu1"].cosine == pytest.approx(F.cosine_similarity(above, branch, dim=0).item(), abs=1e-5)
    assert found["relu1"].ratio == pytest.approx((branch.norm() / above.norm()).item(), rel=1e-4)
    assert all(p.grad is None for p in net.parameters())
    terms.total.backward()  # the graph is still whole


def test_two_branches_on_one_layer_are_measured_one_above_the_other() -> None:
    torch.manual_seed(0)
    model = Plain()
    plan = ds.plan(model, IMAGES, at={"low": "relu1", "high": "relu1"}, weight={"low": 0.5, "high": 2.0})
    net = ds.attach(model, plan)
    with ds.ConflictMeter(net) as meter:
        terms = ds.Objective(plan)(net(IMAGES), LABELS)
        terms.total.backward()
        meter.step()
        found = meter.read()
    assert found["low"].ratio < found["high"].ratio
    assert isinstance(net.model, nn.Module)


def test_the_jacobian_summed_up_is_the_plain_backward() -> None:
    plain, objective = supervised()
    bridged, _ = supervised()
    objective(plain(IMAGES), LABELS).total.backward()
    ds.jacobian_backward(bridged, objective(bridged(IMAGES), LABELS), aggregation.Sum())
    for (name, one), other in zip(plain.named_parameters(), bridged.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_an_aggregator_of_torchjd_serves_every_loss() -> None:
    net, objective = supervised(weight=20.0)
    terms = objective(net(IMAGES), LABELS)
    trunk = list(net.model.parameters())
    rows = {n: torch.autograd.grad(p, trunk, retain_graph=True, allow_unused=True) for n, p in terms.parts.items()}
    weights = ds.jacobian_backward(net, terms, aggregation.UPGrad())
    assert weights is not None
    assert weights.shape == (3,)
    for name, row in rows.items():
        product = sum((g * p.grad).sum() for g, p in zip(row, trunk, strict=True) if g is not None)
        assert product > -1e-4, name  # no loss is made worse
    assert all(p.grad is not None for p in net.heads.parameters())


def test_the_bridge_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    net, objective = supervised()
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ds.errors.MissingPackageError, match=r"deepsup\[conflict\]"):
        ds.jacobian_backward(net, objective(net(IMAGES), LABELS), None)


def test_the_bridge_refuses_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    net, objective = supervised()
    terms = objective(net(IMAGES), LABELS)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ds.errors.ConfigError, match="Train in one process, or use a rule at the taps"):
        ds.jacobian_backward(net, terms, None)


class Pools(nn.Module):
    """Returns its hidden state, and what it made of it itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.first(x))
        return {"last_hidden_state": hidden, "pooled": torch.tanh(self.second(hidden))}


class AroundPools(nn.Module):
    """Goes on with one of the two."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.encoder, self.key = Pools(), key
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(x)[self.key])


VECTORS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def test_a_layer_that_uses_its_output_itself_is_not_measured_and_the_plan_says_so() -> None:
    model = AroundPools("pooled")
    plan = ds.plan(model, VECTORS, at=["encoder"], head="linear")
    assert plan.branches[0].read_inside
    assert "'encoder' uses its output again before it returns it" in str(plan)
    net = ds.attach(model, plan)
    with ds.ConflictMeter(net) as meter:
        ds.Objective(plan)(net(VECTORS), LABELS).total.backward()
        meter.step()
        assert meter.read()["encoder"].cosine is None
        assert "encoder  not measured: its layer uses its output itself, tap another" in str(meter)
    ds.strip(net)
    for rule in ("project", "mgda", "equilibrium", lambda above, branch: above):
        with pytest.raises(ds.errors.LayerError, match="would see a part only of what comes from above"):
            ds.plan(model, VECTORS, at=["encoder"], head="linear", gradient=rule)
    ds.plan(model, VECTORS, at=["encoder"], head="linear", gradient="scale(0.5)")


def test_a_second_output_that_nobody_reads_does_no_harm() -> None:
    plan = ds.plan(AroundPools("last_hidden_state"), VECTORS, at=["encoder"], head="linear", gradient="project")
    assert not plan.branches[0].read_inside


class Twice(nn.Module):
    """Returns one tensor in two places, as stages of backbones do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        hidden = torch.tanh(self.first(x))
        return hidden, [hidden]


class AroundTwice(nn.Module):
    """Reads the second place."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.fc = Twice(), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        one, (other,) = self.encoder(x)
        return self.fc(other + 0.5 * one)


def test_a_tensor_that_stands_in_two_places_of_an_output_is_measured_in_both() -> None:
    torch.manual_seed(0)
    model = AroundTwice().double()
    plan = ds.plan(model, VECTORS.double(), at=["encoder"], head="linear")
    net, objective = ds.attach(model, plan), ds.Objective(plan)
    held: list[Tensor] = []
    handle = model.encoder.register_forward_hook(lambda m, a, out: held.append(out[0]), prepend=True)
    terms = objective(net(VECTORS.double()), LABELS)
    handle.remove()
    (above,) = torch.autograd.grad(terms.parts["main"], held[0], retain_graph=True)
    (branch,) = torch.autograd.grad(terms.parts["encoder"], held[0])
    with ds.ConflictMeter(net) as meter:
        objective(net(VECTORS.double()), LABELS).total.backward()
        meter.step()
    expected = F.cosine_similarity(above.flatten(), branch.flatten(), dim=0).item()
    assert meter.read()["encoder"].cosine == pytest.approx(expected, abs=1e-6)


def test_one_meter_at_a_time_and_a_closed_one_says_so() -> None:
    net, objective = supervised()
    meter = ds.ConflictMeter(net)
    with pytest.raises(AttachError, match="another meter measures this net already"):
        ds.ConflictMeter(net)
    meter.close()
    with pytest.raises(AttachError, match="this meter is closed, or its net was stripped"):
        meter.step()
    again = ds.ConflictMeter(net)
    meter.close()  # does not touch the new one
    objective(net(IMAGES), LABELS).total.backward()
    again.step()
    assert again.read()["relu1"].cosine is not None
    ds.strip(net)
    with pytest.raises(AttachError, match="stripped"):
        again.step()


def test_copies_are_not_measured_by_the_originals_meter() -> None:
    net, objective = supervised()
    with ds.ConflictMeter(net):
        twin = copy.deepcopy(net)
        assert all(tap.slot is None for tap in twin.taps.values())
        objective(twin(IMAGES), LABELS).total.backward()


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_no_graph_is_kept_from_step_to_step() -> None:
    net, objective = supervised()
    with ds.ConflictMeter(net) as meter:
        objective(net(IMAGES), LABELS).total.backward(create_graph=True)
        meter.step()
        assert not meter.take().requires_grad
    for parameter in net.parameters():
        parameter.grad = None


def test_gradients_too_small_to_compare_are_not_compared() -> None:
    assert summarise(["a"], torch.tensor([[[1e-40, 1e-40, 1.0, 1e-40]]], dtype=torch.float64))["a"].cosine is None
    rows = torch.tensor([[[1e-34, 2e-34, 2e-34, 3e-34]]], dtype=torch.float64)
    assert summarise(["a"], rows)["a"].cosine == pytest.approx(0.5)


def test_sharded_parameters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, objective = supervised()
    terms = objective(net(IMAGES), LABELS)
    monkeypatch.setattr(nn.Parameter, "to_local", lambda self: self, raising=False)
    for measure in (ds.parameter_conflicts, lambda *a: ds.jacobian_backward(*a, aggregation.Sum())):
        with pytest.raises(ds.errors.ConfigError, match="sharded over processes"):
            measure(net, terms)


def test_the_bridge_leaves_what_no_loss_reaches_without_a_gradient() -> None:
    net, objective = supervised()
    net.model.spare = nn.Linear(3, 3)
    ds.jacobian_backward(net, objective(net(IMAGES), LABELS), aggregation.Sum())
    assert net.model.spare.weight.grad is None
    assert net.model.conv1.weight.grad is not None
    net.model.requires_grad_(False)
    ds.jacobian_backward(net, objective(net(IMAGES), LABELS), aggregation.Sum())


def test_rounding_makes_no_cosine_of_more_than_one() -> None:
    rows = torch.tensor([[[1.0000001, 1.0, 1.0, 1.0]], [[-1.0000001, 1.0, 1.0, 1.0]]], dtype=torch.float64)
    assert [conflict_meter._summary(row.tolist()).cosine for row in rows] == [1.0, -1.0]
