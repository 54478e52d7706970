"""Embeddings: what enters the last linear layer of every kind of output, of length 1, with no more run than is needed."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import AttachError, BranchNameError, EmbeddingError, HeadError
from deepsup.supervision.embedding import Embeddings, side_by_side
from tests.support.small_nets import CLASSES, Plain, Residual, images


def supervised(model: nn.Module | None = None, **options: Any) -> ds.Supervised:
    torch.manual_seed(0)
    model = model or Residual()
    return ds.attach(model, ds.plan(model, images(), **({"at": ["layer1", "layer2.0"]} | options))).eval()


def entering(layer: nn.Module, run: Any) -> Tensor:
    """The last thing that enters a layer while `run()`, each row over its length, one number at a time."""
    kept: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda m, args: kept.append(args[0].detach()))
    run()
    handle.remove()
    rows = [[float(v) for v in row] for row in kept[-1]]
    return torch.tensor([[v / sum(w * w for w in row) ** 0.5 for v in row] for row in rows])


def by_hand(net: ds.Supervised, name: str, path: str, x: Tensor) -> Tensor:
    if name == "main":
        return entering(net.model.get_submodule(path), lambda: net.model(x))
    return entering(net.heads[name].get_submodule(path), lambda: ds.early_exit(net, name)(x))


HEADS = {
    "pool": "1",
    "linear": "1",
    "cnds(width=2, hidden=4)": "9",
    "googlenet(width=2, hidden=4)": "7",
    "mixed": "2",
    "bottleneck": "fc",
    "sepconv": "fc",
    "sepconv(adapted=True)": "fc",
    "shared(pool)": "1",
}


@pytest.mark.parametrize(("head", "path"), HEADS.items())
def test_of_every_classifier_it_is_what_enters_the_last_layer(head: str, path: str) -> None:
    at = ["layer1.0", "layer1.1"] if "shared" in head else ["layer1", "layer2.0"]
    net, x = supervised(at=at, head=head, branch_loss="cross_entropy"), images(3)
    together = ds.embeddings(net, x)
    assert list(together) == ["main", *net.plan.names, "ensemble"]
    for name in net.plan.names:
        expected = by_hand(net, name, path, x)
        assert torch.allclose(together[name], expected, atol=1e-6)
        assert torch.equal(ds.embedder(net, name)(x), together[name])
    assert torch.allclose(together["main"], by_hand(net, "main", "fc", x), atol=1e-6)
    assert torch.equal(ds.embedder(net)(x), together["main"])
    assert torch.equal(ds.embedder(net, "ensemble")(x), together["ensemble"])
    assert all(t.dtype == torch.float32 and torch.allclose(t.norm(dim=1), torch.ones(3)) for t in together.values())


@pytest.mark.parametrize(
    ("method", "at"),
    [
        ("dsl", ["layer1"]),
        ("dhm", ["layer1"]),
        ("dml", None),
        ("byot", ["layer1"]),
        ("cds", ["layer1"]),
        ("aux", {"own": "layer1"}),
    ],
)
def test_methods_give_the_embeddings_of_the_branches_that_score(method: str, at: Any) -> None:
    net, x = supervised(Residual(), method=method, at=at), images(3)
    found = ds.embeddings(net, x)
    scoring = [b.name for b in net.plan.branches if b.predicts]
    assert list(found) == ["main", *scoring, *(["ensemble"] if scoring else [])]
    for name in scoring:
        layers = [m for m in net.heads[name].modules() if isinstance(m, nn.Linear)]
        expected = entering(layers[-1], lambda name=name: ds.early_exit(net, name)(x))
        assert torch.allclose(found[name], expected, atol=1e-6)
    for other in set(net.plan.names) - set(scoring):
        with pytest.raises(BranchNameError, match="gives no scores"):
            ds.embedder(net, other)


def test_a_head_that_lends_the_models_classifier_is_read_in_its_own_run() -> None:
    net, x = supervised(at=["layer2.0"], head="main"), images(3)
    found = ds.embeddings(net, x)
    assert torch.allclose(found["main"], by_hand(net, "main", "fc", x), atol=1e-6)
    last = [m for m in net.heads["layer2.0"].modules() if isinstance(m, nn.Linear)][-1]
    assert last is net.model.fc
    assert torch.allclose(found["layer2.0"], entering(last, lambda: ds.early_exit(net, "layer2.0")(x)), atol=1e-6)
    assert not torch.allclose(found["main"], found["layer2.0"])


def test_the_cosine_of_the_ensemble_is_the_mean_of_those_of_its_parts() -> None:
    found = ds.embeddings(supervised(), images(4))
    parts = [found[name] @ found[name].T for name in ("main", "layer1", "layer2.0")]
    assert torch.allclose(found["ensemble"] @ found["ensemble"].T, sum(parts) / 3, atol=1e-6)
    assert found["ensemble"].shape == (4, 8 + 4 + 8)
    assert torch.equal(side_by_side({"one": found["main"]}), found["main"])


def test_a_plain_model_has_its_own_embedding_alone() -> None:
    model, x = Residual().eval(), images(3)
    found = ds.embedder(model)(x)
    assert torch.allclose(found, entering(model.fc, lambda: model(x)), atol=1e-6)
    assert list(ds.embeddings(model, x)) == ["main"]
    for name in ("late", "ensemble"):
        with pytest.raises(BranchNameError, match="Outputs: main"):
            ds.embedder(model, name)


def test_neither_classifier_nor_head_runs_beyond_what_is_needed() -> None:
    net, x = supervised(head="pool"), images(3)
    modules = {name: ds.embedder(net, name) for name in ("main", "layer1")}
    [module(x) for module in modules.values()]  # which looks for the layers
    ran: list[str] = []
    for name, module in (*net.model.named_modules(), *((f"heads.{n}", m) for n, m in net.heads.named_modules())):
        module.register_forward_hook(lambda m, a, out, name=name: ran.append(name))
    modules["main"](x)
    assert ran[-1] == "avgpool"
    assert not [name for name in ran if name.startswith("heads")]
    ran.clear()
    modules["layer1"](x)
    assert ran[-1].startswith("heads.layer1")
    assert not [name for name in ran if name.startswith(("layer2", "fc", "heads.layer1.1", "heads.layer2"))]


def test_a_stripped_net_and_what_is_around_it_has_the_same_and_no_trace_is_left() -> None:
    net, x = supervised(), images(3)
    every = Embeddings(net)
    hooks = {n: (list(m._forward_hooks), list(m._forward_pre_hooks)) for n, m in net.named_modules()}
    state, draws = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    expected = every(x)
    assert {n: (list(m._forward_hooks), list(m._forward_pre_hooks)) for n, m in net.named_modules()} == hooks
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.optim.swa_utils.AveragedModel(net).eval()):
        assert all(torch.equal(v, expected[k]) for k, v in ds.embeddings(other, x).items())
    model = ds.strip(net)
    for found in (every(x), ds.embeddings(net, x)):
        assert found.keys() == expected.keys()
        assert all(torch.equal(v, expected[k]) for k, v in found.items())
    assert torch.equal(ds.embedder(model)(x), expected["main"])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_compiled_nets_are_seen_through() -> None:
    net, x = supervised(), images(3)
    expected = ds.embeddings(net, x)
    assert torch.equal(ds.embedder(torch.compile(net, backend="eager"))(x), expected["main"])
    plain = torch.compile(net.model, backend="eager")
    assert torch.equal(ds.embedder(plain)(x), expected["main"])


@pytest.fixture
def one_process(tmp_path: Any) -> Iterator[None]:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_nets_of_several_processes_are_seen_through() -> None:
    net, x = supervised(), images(3)
    expected = ds.embeddings(net, x)
    wrapped = nn.parallel.DistributedDataParallel(net)
    assert torch.equal(ds.embedder(wrapped, "ensemble")(x), expected["ensemble"])
    assert torch.equal(ds.embedder(nn.parallel.DistributedDataParallel(ds.strip(net)))(x), expected["main"])


def test_it_is_for_scoring_alone() -> None:
    net, x = supervised(), images()
    modules = [ds.embedder(net, name) for name in ("main", "layer1", "ensemble")]
    net.train()
    for module in modules:
        with pytest.raises(AttachError, match=r"in training mode. Call .eval\(\) first"):
            module(x)
    modules[0].eval()
    modules[0](x)
    with pytest.raises(AttachError, match="in training mode"):
        ds.embeddings(Plain(), x)


class Distilled(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu2(self.conv2(self.relu1(self.conv1(x))))).flatten(1)
        return (self.fc(x) + self.other(F.relu(x))) / 2


def test_several_scoring_layers_are_an_error_until_one_is_named() -> None:
    net, x = supervised(Distilled(), at=["relu1"], head="cnds(width=2, hidden=4)"), images(3)
    with pytest.raises(
        EmbeddingError, match=r"the scores of 'main' are made by several layers.*embedding='fc'"
    ) as error:
        ds.embeddings(net, x)
    assert isinstance(error.value, HeadError)
    found = Embeddings(net, embedding={"main": "other", "relu1": "4"})(x)
    assert torch.allclose(found["main"], by_hand(net, "main", "other", x), atol=1e-6)
    assert torch.allclose(found["relu1"], by_hand(net, "relu1", "4", x), atol=1e-6)
    assert torch.equal(ds.embedder(net, embedding="other")(x), found["main"])
    with pytest.raises(EmbeddingError, match=r"no layer 'fd'.*embedding=\{'relu1': 'LAYER'\}"):
        ds.embedder(net, "relu1", embedding={"relu1": "fd"})(x)
    with pytest.raises(BranchNameError, match="'relu2'"):
        ds.embedder(net, embedding={"relu2": "fd"})


def test_half_precision_gives_float32_of_length_1_and_gradients_flow() -> None:
    net, x = supervised(), images(3)
    with torch.autocast("cpu", torch.bfloat16):
        found = ds.embedder(net, "ensemble")(x)
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(3))
    x.requires_grad_(True)
    ds.embedder(net, "layer1")(x)[0, 0].backward()
    assert x.grad is not None
    with torch.inference_mode():
        assert torch.allclose(ds.embedder(net)(x), ds.embedder(net)(x))
    assert ds.embedder(net.double())(x.double()).dtype == torch.float32


def test_threads_do_not_read_one_another() -> None:
    net = supervised()
    every, xs = Embeddings(net), [images(2) for _ in range(8)]
    expected = [every(x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for found, known in zip(pool.map(every, xs), expected, strict=True):
            assert all(torch.allclose(found[k], known[k], atol=1e-6) for k in known)
