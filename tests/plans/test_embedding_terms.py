"""Losses on features: which outputs have them, what they read in training, and that nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import losses
from deepsup.errors import BranchNameError, ConfigError, EmbeddingError
from tests.support.laws import assert_same_state, state_of
from tests.support.small_nets import CLASSES, Residual, images


class Necked(nn.Module):
    """Two stages, a neck of batch normalisation, a linear layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.neck = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.neck(self.pool(self.stage2(self.stage1(x))).flatten(1)))


def y() -> Tensor:
    return torch.tensor([0, 0, 1, 1, 2, 2])


def planned(model: nn.Module, at: Any = ("stage1",), **options: Any) -> ds.Plan:
    return ds.plan(model, torch.ones(2, 3, 16, 16), at, **({"embedding_loss": "triplet"} | options))


def total(net: ds.Supervised, x: Tensor, progress: float = 0.5) -> ds.Terms:
    return ds.Objective(net.plan)(net(x), y(), progress=progress)


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {n: p.grad for n, p in model.named_parameters()}


def test_the_terms_read_what_enters_the_necks_and_the_step_is_that_by_hand() -> None:
    torch.manual_seed(0)
    model = Necked().double()
    plan = ds.plan(
        model, images().double(), ["stage1"], weight=0.3, embedding_loss="triplet(margin=0.3)", embedding_weight=0.5
    )
    twin = copy.deepcopy(model)
    net = ds.attach(model, plan)
    head, x = copy.deepcopy(net.heads["stage1"]), images(6).double()
    terms = total(net, x)
    terms.total.backward()
    assert list(terms.parts) == ["main", "stage1", "main/feature", "stage1/feature"]
    low = twin.stage1(x)
    feature = twin.pool(twin.stage2(low)).flatten(1)
    early = low.mean((2, 3))
    parts = [
        F.cross_entropy(twin.fc(twin.neck(feature)), y()),
        0.3 * F.cross_entropy(head[1](early), y()),
        0.5 * losses.triplet(feature, y()),
        0.5 * losses.triplet(early, y()),
    ]
    expected = sum(parts)
    expected.backward()
    assert torch.allclose(terms.total, expected, rtol=1e-12)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-12), name
    for p, q in zip(net.heads["stage1"].parameters(), head.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("circle", ["main/feature", "a/feature", "b/feature"]),
        ({"main": "triplet"}, ["main/feature"]),
        ({"main": None, "b": "triplet"}, ["b/feature"]),
        ({"a": "circle", "b": "triplet"}, ["a/feature", "b/feature"]),
        (None, []),
    ],
)
def test_each_output_has_the_loss_that_is_said_for_it(loss: Any, expected: list[str]) -> None:
    plan = planned(Necked(), {"a": "stage1", "b": "stage2"}, embedding_loss=loss)
    assert [e.source for e in plan.edges] == expected
    assert [e.output for e in plan.embeddings] == [name.partition("/")[0] for name in expected]
    net = ds.attach(Necked(), plan)
    assert [name for name in net(images()).aux if "/" in name] == expected
    assert set(ds.Objective(plan)(net(images(6)), y()).parts) == {"main", "a", "b", *expected}


def test_weights_are_by_output_too_and_schedules() -> None:
    model = Necked()
    net = ds.attach(model, planned(model, embedding_weight={"stage1": "linear(1, 0)"}))
    assert total(net, images(6), 0.25).weights["main/feature"] == 1
    assert total(net, images(6), 0.25).weights["stage1/feature"] == 0.75


def test_the_plain_model_can_have_one_too() -> None:
    model = Necked().train()
    before = state_of(model)
    plan = planned(model, None, method="none", embedding_loss="circle")
    assert plan.outputs == ("main/feature",)
    assert_same_state(before, state_of(model))
    net = ds.attach(model, plan)
    assert ds.is_supervised(net)
    assert set(total(net, images(6)).parts) == {"main", "main/feature"}
    assert ds.strip(net) is model
    assert not any(m._forward_hooks for m in net.modules())
    assert not ds.is_supervised(net)


def mine(features: Tensor, labels: Tensor) -> Tensor:
    return features.square().mean() * labels.float().mean()


class Mine(nn.Module):
    def forward(self, embeddings: Tensor, labels: Tensor | None = None, indices_tuple: Any = None) -> Tensor:
        assert labels is not None
        return mine(embeddings, labels)


@pytest.mark.parametrize("loss", [mine, Mine()])
def test_a_function_of_features_and_labels_will_do(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Necked()
    net, x = ds.attach(model, planned(model, embedding_loss=loss)), images(6)
    outputs = net(x)
    terms = ds.Objective(net.plan)(outputs, y())
    for name in ("main/feature", "stage1/feature"):
        assert torch.equal(terms.parts[name], mine(outputs.aux[name], y()))


def own(feature: ds.Feature, classes: int) -> nn.Module:
    width = feature.channels
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(width), nn.Linear(width, classes))


def test_losses_of_pytorch_metric_learning_go_in_as_they_are() -> None:
    from pytorch_metric_learning import losses as theirs

    model, x = Necked(), images(6)
    for loss in (theirs.TripletMarginLoss(), theirs.MultiSimilarityLoss(), theirs.SupConLoss()):
        net = ds.attach(model, planned(model, embedding_loss=loss))
        outputs = net(x)
        terms = ds.Objective(net.plan)(outputs, y())
        assert torch.allclose(terms.parts["main/feature"], loss(outputs.aux["main/feature"], y()))
        terms.total.backward()
        ds.strip(net)


@pytest.mark.parametrize(
    ("head", "adds", "output"),
    [
        ("pool", "feature", "stage1/feature"),
        ("bottleneck", "", "stage1/feature"),
        ("sepconv", "", "stage1/feature"),
        ("sepconv(adapted=True)", "embedding", "stage1/embedding"),
        ("continuation", "feature", "stage1/feature"),
        (own, "feature", "stage1/feature"),
    ],
)
def test_of_every_kind_of_head_it_is_what_enters_the_neck(head: Any, adds: str, output: str) -> None:
    torch.manual_seed(0)
    model, branch = Necked(), output.partition("/")[0]
    plan = planned(model, [branch], head=head, branch_loss="cross_entropy")
    layer = next(e for e in plan.embeddings if e.output == branch)
    assert layer.adds == adds
    net, x, kept = ds.attach(model, plan), images(6), list[Tensor]()
    handle = net.heads[branch].get_submodule(layer.first).register_forward_pre_hook(lambda m, a: kept.append(a[0]))
    outputs = net(x)
    handle.remove()
    assert torch.equal(outputs.aux[output], kept[-1])
    first = net.heads[branch].get_submodule(layer.first)
    assert isinstance(first, nn.BatchNorm1d) == (head == "continuation" or head is own)
    total(net, x).total.backward()


def test_a_head_that_branches_share_is_read_in_each_ones_run() -> None:
    model = Residual()
    plan = planned(model, ["layer1.0", "layer1.1"], head="shared(pool)")
    net = ds.attach(model, plan)
    aux = net(images(6)).aux
    assert not torch.equal(aux["layer1.0/feature"], aux["layer1.1/feature"])
    total(net, images(6)).total.backward()


def test_of_weight_0_nothing_is_sent_to_the_trunk() -> None:
    torch.manual_seed(0)
    model = Necked()
    plain, x = copy.deepcopy(model), images(6)
    net = ds.attach(model, planned(model, weight=0, embedding_weight=0))
    total(net, x).total.backward()
    F.cross_entropy(plain(x), y()).backward()
    for name, found in gradients(plain).items():
        assert torch.equal(gradients(model)[name], found), name
    assert all(not p.grad.any() for p in net.heads.parameters())


def test_a_branch_whose_own_loss_is_off_still_learns_by_its_feature() -> None:
    model = Necked()
    net = ds.attach(model, planned(model, weight=0, embedding_loss={"stage1": "triplet"}, head="bottleneck"))
    total(net, images(6)).total.backward()
    assert any(p.grad.any() for p in net.heads.parameters())


@pytest.mark.parametrize(
    ("weight", "loss", "head"), [(0, "triplet", "cnds(width=2, hidden=4)"), (1, {"stage1": "triplet"}, "bottleneck")]
)
def test_a_head_of_which_one_output_learns_has_a_gradient_for_every_parameter(
    weight: int, loss: Any, head: str
) -> None:
    """DistributedDataParallel waits for each."""
    model = Necked()
    off = {"embedding_weight": 0} if weight else {}
    net = ds.attach(model, planned(model, weight=weight, embedding_loss=loss, head=head, **off))
    total(net, images(6)).total.backward()
    assert all(p.grad is not None for p in net.heads.parameters())
    assert any(p.grad.any() for p in net.heads.parameters())


def test_planning_leaves_no_trace_and_eval_returns_what_the_model_does() -> None:
    model = Necked()
    before = state_of(model)
    plan = planned(model)
    assert_same_state(before, state_of(model))
    net, x = ds.attach(model, plan).eval(), images()
    assert torch.equal(net(x), ds.strip(copy.deepcopy(net))(x))
    ds.strip(net)
    after = state_of(model.train())
    assert [after[key] == before[key] for key in ("hooks", "attributes", "parameters")] == [True] * 3
    assert not any(m._forward_hooks for m in net.modules())


def test_where_it_is_off_no_step_reads_anything() -> None:
    model = Necked()
    net = ds.attach(model, planned(model, embedding_loss=None, embedding="fc"))
    assert net.inner == {}
    assert not model.fc._forward_hooks
    assert not model.neck._forward_hooks
    assert [(e.output, e.layer, e.neck, e.adds) for e in net.plan.embeddings] == [("main", "fc", "neck", "")]


def test_embedders_know_from_the_plan_where_embeddings_are() -> None:
    model, x = Necked(), images(3)
    nn.init.uniform_(model.neck.weight)
    net = ds.attach(model, planned(model, embedding_loss=None, embedding={"main": "neck"})).eval()
    expected = F.normalize(model.pool(model.stage2(model.stage1(x))).flatten(1), dim=1)
    assert torch.allclose(ds.embedder(net)(x), expected, atol=1e-6)
    assert not torch.allclose(ds.embedder(net, embedding="fc")(x), expected, atol=1e-6)


def test_a_head_of_the_models_own_layers_is_read_while_it_runs() -> None:
    model = Residual()
    net, kept = ds.attach(model, planned(model, ["layer2.0"], head="main")), list[Tensor]()
    model.fc.register_forward_pre_hook(lambda m, a: kept.append(a[0]))
    aux = net(images(6)).aux
    assert len(kept) == 2
    assert torch.equal(aux["main/feature"], kept[0])
    assert torch.equal(aux["layer2.0/feature"], kept[1])
    assert ds.strip(net) is model
    assert not model.fc._forward_hooks


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"embedding_loss": "cross_entropy"}, ConfigError, "does not compare features .*triplet, circle"),
        ({"embedding_loss": "kl"}, ConfigError, "does not compare features"),
        ({"embedding_loss": "tripled"}, ConfigError, "triplet"),
        ({"embedding_loss": nn.CrossEntropyLoss()}, ConfigError, "does not compare features"),
        (
            {"embedding_loss": {"late": "triplet"}},
            BranchNameError,
            "embedding_loss= names the output 'late'.*main, stage1",
        ),
        ({"embedding_weight": {"late": 1}}, BranchNameError, "embedding_weight= names the output 'late'"),
        ({"embedding": {"late": "fc"}}, BranchNameError, "embedding= names the output 'late'"),
        ({"embedding": "stage1.0"}, EmbeddingError, "not one vector a sample"),
        ({"task": "labels"}, ConfigError, "one class a sample.*5 labels"),
        ({"task": "values"}, ConfigError, "one class a sample.*5 values"),
        ({"method": "cds", "embedding_loss": {"stage1": "triplet"}}, BranchNameError, "gives no scores"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        planned(Necked(), **options)


def test_maps_have_no_embedding() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, CLASSES, 1))
    with pytest.raises(ConfigError, match="one class a sample"):
        ds.plan(model, images(), ["0"], embedding_loss="triplet")
