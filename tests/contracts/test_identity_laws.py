"""Every method and control on a network for identities, with a loss on features: the laws hold and embeddings are there."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import networks, schedules
from deepsup.methods import METHODS
from deepsup.supervision.embedding import Embeddings
from tests.support.laws import assert_same_state, mixed_flags, state_of
from tests.support.tiny_maps import is_for_maps

CLASSES = 5
OPTIONS = {"backbone": "deepsup:resnet-10-slim", "backbone_options": {"width": 4}}
EVERY = [name for name in METHODS if not is_for_maps(name) and name != "equal-compute"]  # a length of training, no plan


def built(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return networks.build("deepsup:reid", classes=CLASSES, options=OPTIONS | options)


def images(n: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, 32, 16, generator=torch.Generator().manual_seed(seed))


def planned(model: nn.Module, name: str, **options: Any) -> ds.Plan:
    method = METHODS[name]
    at = None if method.places or method.bare else ["backbone.layer2", "backbone.layer3"]
    return ds.plan(model, images(), at, method=name, **({"embedding_loss": "triplet(margin='soft')"} | options))


def targets() -> Tensor:
    return torch.tensor([0, 0, 1, 0, 0, 1])  # two crops of each image, and two images of an identity


def batch(name: str, step: int) -> tuple[Tensor, Tensor]:
    """Six images; where each batch begins with the new samples of the last one, three at first."""
    n = 3 if METHODS[name].overlap and step == 0 else 6
    return images(n, seed=step), targets()[:n]


def scoring(plan: ds.Plan) -> list[str]:
    return ["main", *(b.name for b in plan.branches if b.predicts)]


@pytest.mark.parametrize("name", EVERY)
def test_every_output_that_scores_learns_by_its_feature_for_two_steps(name: str) -> None:
    model = built()
    mixed_flags(model)
    before = state_of(model)
    plan = planned(model, name)
    assert_same_state(before, state_of(model))
    model.requires_grad_(True).train()
    net = ds.attach(model, plan)
    objective, optimizer = ds.Objective(plan), torch.optim.SGD(net.parameters(), lr=0.05)
    for step in range(2):
        optimizer.zero_grad()
        x, y = batch(name, step)
        terms = objective(net(x), y, progress=step / 2)
        terms.total.backward()
        optimizer.step()
    terms_on_features = [e.source for e in plan.edges if e.target == "y" and "/" in e.source]
    assert [source.partition("/")[0] for source in terms_on_features] == scoring(plan)
    assert all(terms.parts[source] > 0 for source in terms_on_features)
    assert all(p.isfinite().all() for p in net.parameters())
    assert all(e.neck == "neck" for e in plan.embeddings if e.output == "main")
    assert not any(p.grad is None for p in net.heads.parameters() if p.requires_grad)
    assert ds.strip(net) is model
    assert not ds.is_supervised(net)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("name", EVERY)
def test_embeddings_are_what_enters_the_last_layer_of_each(name: str) -> None:
    model = built().eval()
    plan = planned(model, name, embedding_loss=None)
    net, x = ds.attach(model, plan).eval(), images(4)
    found = Embeddings(net)(x)
    outputs = scoring(plan)
    assert list(found) == [*outputs, *(["ensemble"] if len(outputs) > 1 else [])]
    with torch.no_grad(), ds.supervising(net):
        given = net(x)
    for output in outputs:
        root = model if output == "main" else net.heads[output]
        last = [m for m in root.modules() if isinstance(m, nn.Linear) and m.out_features == CLASSES][-1]
        scores = given.main if output == "main" else given.aux[output]
        # the scores are linear in the embedding: its direction and one length a sample explain them
        of_direction = found[output] @ last.weight.T
        bias = 0 if last.bias is None else last.bias
        lengths = ((scores - bias) * of_direction).sum(1, keepdim=True) / of_direction.square().sum(1, keepdim=True)
        assert torch.allclose(lengths * of_direction + bias, scores, atol=1e-5), output
    stripped = ds.strip(net)
    assert torch.equal(ds.embedder(stripped)(x), found["main"])


@pytest.mark.parametrize("name", [n for n in EVERY if n != "equilibrium"])  # whose rule is a change by itself
def test_with_all_weights_zero_the_plain_model_is_trained_bit_for_bit(name: str) -> None:
    plain, model = built().train(), built().train()
    plan = planned(model, name)
    zero = schedules.constant(0)
    nothing = replace(
        plan,
        main_weight=1.0,
        branches=tuple(replace(b, weight=zero) for b in plan.branches),
        edges=tuple(replace(e, weight=zero) for e in plan.edges),
    )
    net = ds.attach(model, nothing)
    objective, alone = ds.Objective(nothing), ds.Objective(loss=plan.main_loss)
    ours, theirs = (torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (net, plain))
    for step in range(3):
        x, y = batch(name, step)
        for optimizer in (ours, theirs):
            optimizer.zero_grad()
        objective(net(x), y, progress=0.3).total.backward()
        alone(plain(x), y).total.backward()
        for optimizer in (ours, theirs):
            optimizer.step()
    for (key, p), q in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(p, q), key


@pytest.mark.parametrize("name", EVERY)
def test_a_net_in_evaluation_is_the_plain_model_and_survives_copying_pickling_and_loading(name: str) -> None:
    model, x = built().eval(), images(4)
    expected = model(x)
    net = ds.attach(model, planned(model, name)).eval()
    assert torch.equal(net(x), expected)
    loaded = ds.attach(built(), ds.Plan.from_dict(net.plan.to_dict())).eval()
    loaded.load_state_dict(net.state_dict())

    def outputs(net: nn.Module) -> ds.Outputs:
        with torch.no_grad(), ds.supervising(net):
            return net(x)  # type: ignore[no-any-return]

    whole = outputs(net)
    assert list(whole.aux) == list(net.plan.outputs)
    assert "main/feature" in whole.aux
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), loaded):
        again = outputs(other)
        assert torch.equal(again.main, whole.main)
        assert all(torch.equal(again.aux[key], whole.aux[key]) for key in whole.aux)


@pytest.mark.parametrize("name", ["none", "adaloss", "dhm", "byot", "byot-released", "dml-shared"])
def test_a_step_with_features_compiles_as_one_graph(name: str) -> None:
    net = ds.attach(model := built().train(), planned(model, name))
    objective, x, y = ds.Objective(net.plan), images(6), targets()
    net.set_progress(0.5)

    def total(net: nn.Module) -> Tensor:
        return objective(net(x), y, progress=0.5).total

    state = copy.deepcopy(net.state_dict())
    expected = total(net)
    net.load_state_dict(state)
    torch._dynamo.reset()
    compiled = torch.compile(total, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(net), expected, rtol=1e-5)


def test_a_repeated_neck_is_told_from_what_lies_before_it() -> None:
    """By hand: cross-entropy on scores, the triplet on what enters the necks, of main and of a branch that repeats them."""
    model = built().double().train()
    plan = ds.plan(
        model, images().double(), ["backbone.layer3"], head="continuation", weight=1, embedding_loss="triplet"
    )
    twin = copy.deepcopy(model)
    net = ds.attach(model, plan)
    head = copy.deepcopy(net.heads["backbone.layer3"])
    x, y = images(6).double(), targets()
    terms = ds.Objective(plan)(net(x), y)
    terms.total.backward()
    maps = twin.backbone(x)
    feature = maps[-1].mean((2, 3))
    early: list[Tensor] = []
    head.neck.register_forward_pre_hook(lambda m, args: early.append(args[0]))
    parts = [F.cross_entropy(twin.fc(twin.neck(feature)), y), F.cross_entropy(head(maps[-2]), y)]
    parts += [ds.losses.triplet(z, y) for z in (feature, early[0])]
    sum(parts).backward()
    assert torch.allclose(terms.total, sum(parts), rtol=1e-12)
    for (key, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-8, atol=1e-12), key
