"""What does not fit is refused when planning, and what fits trains."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import HeadError
from deepsup.layers.taps import remove_taps

CLASSES = 4


def stage(width: int, out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU())


class Three(nn.Module):
    """Three stages of a block on 3x16x16 images; two classifiers, of which the second is meant."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = stage(3, 4, 1), stage(4, 6, 2), stage(6, 8, 2)
        self.fc = nn.Linear(8, classes)

    def features(self, x: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(x)))

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.features(x).mean((2, 3)))


class Maps(Three):
    """Scores for every place."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Any:
        return F.interpolate(self.fc(self.features(x)), scale_factor=4.0)


class Dictionary(Three):
    def forward(self, x: Tensor) -> Any:
        h = self.features(x).mean((2, 3))
        return {"emb": h, "logits2": self.fc(h)}


class Pair(Three):
    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Any:
        h = self.features(x).mean((2, 3))
        return self.coarse(h), self.fc(h)


def images(n: int = 6) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def planned(method: str, model: nn.Module | None = None, **options: Any) -> ds.Plan:
    torch.manual_seed(0)
    return ds.plan(model or Three(), images(2), method=method, **options)


def wide(feature: ds.Feature, classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(feature.channels, 9))


# --- which of several outputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dml", "dhm", "dml-shared", "one"])
@pytest.mark.parametrize(("build", "main"), [(Dictionary, "logits2"), (Pair, "1")])
def test_branches_repeat_the_classifier_that_main_names(build: type[Three], main: str, method: str) -> None:
    model = build()
    net = ds.attach(model, planned(method, model, main=main))
    for name, head in net.heads.items():
        paths = {n.split(".")[0] for n, _ in head.named_parameters()}
        assert name == "gate" or ("fc" in paths and "coarse" not in paths)
    ds.Objective(net.plan)(net(images()), torch.arange(6) % CLASSES, progress=0.5).total.backward()
    assert model.fc.weight.grad.any()
    assert all(p.grad is not None for p in net.heads.parameters())
    again = ds.attach(copy.deepcopy(ds.strip(net)), ds.Plan.from_dict(net.plan.to_dict()))
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in net.named_parameters()]


# --- heads that start at zero ---------------------------------------------------------------------------------------


def test_embeddings_are_left_alone_where_all_heads_start_at_zero() -> None:
    model = Three()
    net = ds.attach(model, planned("cds", model, zero_heads=True))
    assert [(b.name, b.zero) for b in net.plan.branches] == [("layer1", False), ("layer2", False), ("deepest", False)]
    aux = net(images()).aux
    assert all(torch.count_nonzero(aux[name]) for name in ("layer1", "layer2"))
    ds.Objective(net.plan)(net(images()), torch.tensor([0, 1, 2, 0, 1, 2])).total.backward()
    assert all(p.grad.any() for p in net.heads["layer1"][-1].parameters())
    for method, zero in (("one", {"copy1": True, "copy2": True, "gate": False}), ("byot", {"layer1": True})):
        found = {b.name: b.zero for b in planned(method, zero_heads=True).branches}
        assert found.items() >= zero.items()
    assert not found["deepest"]


@pytest.mark.parametrize(
    ("method", "name", "head"), [("cds", "layer1", r"embed\(.*\)"), ("one", "gate", r"gate\(.*\)")]
)
def test_an_embedding_that_is_named_is_refused(method: str, name: str, head: str) -> None:
    with pytest.raises(HeadError, match=rf"names branch '{name}', whose head \({head}\) gives no class scores"):
        planned(method, zero_heads={name: True})
    assert not any(b.zero for b in planned(method, zero_heads={name: False}).branches)


def test_scores_that_a_contrast_reads_are_an_embedding_too() -> None:
    assert not planned("cds", head={"layer1": "pool"}, zero_heads=True).branches[0].zero
    with pytest.raises(HeadError, match=r"names branch 'layer1', whose head \(pool\) gives no class scores"):
        planned("cds", head={"layer1": "pool"}, zero_heads={"layer1": True})


def test_at_first_the_losses_of_zero_heads_send_nothing_into_the_trunk() -> None:
    model = Three()
    net = ds.attach(model, planned("aux", model, at=["layer1", "layer2"], zero_heads=True))
    trunk = copy.deepcopy(model)
    remove_taps(trunk)
    y = torch.arange(6) % CLASSES
    ds.Objective(net.plan)(net(images()), y).total.backward()
    F.cross_entropy(trunk(images()), y).backward()
    for p, q in zip(model.parameters(), trunk.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-7)


# --- terms between outputs ------------------------------------------------------------------------------------------


def test_outputs_of_two_shapes_cannot_learn_from_each_other() -> None:
    with pytest.raises(HeadError) as caught:
        planned("dml", branch_loss={"peer1": "none"}, head={"peer1": wide})
    assert str(caught.value) == (
        "'main' learns from 'peer1' by kl, which compares two outputs of one shape; found (4,) and (9,) a sample. Give the "
        "branch a head whose output has the teacher's shape."
    )
    with pytest.raises(HeadError, match=r"'layer1/feature' learns from 'deepest' by hint, .* found \(5,\) and \(8,\)"):
        planned("byot", head={"layer1": "bottleneck(channels=5, steps=2)"})
    assert planned("dml", branch_loss={"peer1": "none"}).edges  # of one shape it may


# --- the gate of an ensemble ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "head", "says"),
    [
        (
            "one",
            {"gate": "gate(outputs=5)"},
            r"weighs 3 outputs .*main, copy1, copy2.* \(gate\(outputs=5\)\) gives 5 weights",
        ),
        ("one(branches=4)", {"gate": "gate"}, r"weighs 4 outputs .* gives 3 weights a sample.*'gate\(outputs=4\)'"),
        ("one", {"gate": "pool"}, r"weighs 3 outputs .*\(pool\) gives 4 class scores"),
        ("one(branches=4)", {"gate": "pool"}, r"weighs 4 outputs .*\(pool\) gives 4 class scores"),
        ("one", {"gate": wide}, r"weighs 3 outputs .*\(custom:wide\) gives 9 weights"),
    ],
)
def test_a_gate_has_one_weight_for_each_output(method: str, head: Any, says: str) -> None:
    with pytest.raises(HeadError, match=f"the branch 'gate' {says}"):
        planned(method, head=head)


def test_a_branch_that_does_not_predict_needs_no_weight() -> None:
    options: dict[str, Any] = {"head": {"copy1": wide}, "branch_loss": {"copy1": "none"}}
    with pytest.raises(HeadError, match=r"weighs 2 outputs in the ensemble \(main, copy2\), .* gives 3 weights"):
        planned("one", **options)
    options["head"]["gate"] = "gate(outputs=2)"
    with pytest.raises(HeadError, match=r"'copy1' learns from 'ensemble' by kl\(temperature=3\).*\(9,\) and \(4,\)"):
        planned("one", **options)


def test_a_gate_of_the_users_own_is_no_prediction_even_where_it_looks_like_one() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))[:, :3].softmax(1)

    model = Three(classes=3)
    net = ds.attach(model, planned("one", model, head={"gate": Own()}))
    assert {b.name: b.predicts for b in net.plan.branches} == {"copy1": True, "copy2": True, "gate": False}
    outputs = net(images())
    found = ds.Objective(net.plan).complete({"main": outputs.main, **outputs.aux})["ensemble"]
    members = [outputs.main, outputs.aux["copy1"], outputs.aux["copy2"]]
    assert torch.allclose(found, sum(outputs.aux["gate"][:, [i]] * m for i, m in enumerate(members)), atol=1e-6)


@pytest.mark.parametrize("samples", [3, 4, 5])
def test_a_gate_weighs_maps_sample_by_sample(samples: int) -> None:
    model = Maps()
    net = ds.attach(model, planned("one", model))
    outputs = net(images(samples))
    members = [outputs.main, outputs.aux["copy1"], outputs.aux["copy2"]]
    objective = ds.Objective(net.plan)
    found = objective.complete({"main": outputs.main, **outputs.aux})["ensemble"]
    for n in range(samples):
        expected = sum(float(outputs.aux["gate"][n, i].detach()) * m[n] for i, m in enumerate(members))
        assert torch.allclose(found[n], expected, atol=1e-6)
    objective(outputs, torch.zeros(samples, 16, 16, dtype=torch.long), progress=0.5).total.backward()
    assert net.heads["gate"][1].weight.grad.any()


def test_one_trains_on_a_last_batch_of_a_single_image() -> None:
    model = Three()
    net = ds.attach(model, planned("one", model))
    ds.Objective(net.plan)(net(images(1)), torch.tensor([2]), progress=0.5).total.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
