"""Heads that give something else than scores: an embedding, a gate, a mean."""

from __future__ import annotations

import copy

import pytest
import torch

from deepsup import heads
from deepsup.features import Feature
from tests.support.activations import FEATURES, activation, parameters
from tests.support.small_nets import CLASSES


def test_embed_projects_by_two_layers_or_leaves_it_out_as_released() -> None:
    feature = Feature((6, 8, 8), "NCHW")
    head = heads.build("embed(dim=5)", feature, CLASSES)
    assert [type(m).__name__ for m in list(head)[-4:]] == ["Mean", "Linear", "ReLU", "Linear"]
    assert head(activation(feature)).shape == (3, 5)
    released = heads.build("embed(dim=None)", feature, CLASSES)
    chain = heads.build("sepconv", feature, CLASSES)
    released.load_state_dict(dict(zip(released.state_dict(), chain.body.state_dict().values(), strict=True)))
    x = activation(feature)
    assert torch.equal(released.eval()(x), chain.eval()(x)["feature"])
    assert not torch.allclose(released(x).norm(dim=1), torch.ones(3))  # the losses normalise, not the head


def test_gate_is_a_softmax_over_the_outputs() -> None:
    x, head = activation(FEATURES["NCHW"]), heads.build("gate(outputs=4)", FEATURES["NCHW"], CLASSES)
    raw = x.mean((2, 3)) @ head[1].weight.T + head[1].bias
    normal = (raw - raw.mean(0)) / (raw.var(0, unbiased=False) + 1e-5).sqrt()
    expected = normal.clamp(min=0).exp()
    expected = expected / expected.sum(1, keepdim=True)
    assert torch.allclose(head(x), expected, atol=1e-5)


def test_a_gate_takes_one_sample_by_its_running_statistics() -> None:
    head = heads.build("gate(outputs=4)", FEATURES["NCHW"], CLASSES)
    head(activation(FEATURES["NCHW"], 8))
    state = copy.deepcopy(head.state_dict())
    assert list(state) == [f"1.{n}" for n in ("weight", "bias")] + [
        f"2.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    x = activation(FEATURES["NCHW"], 1)
    found = head(x)
    assert all(torch.equal(state[n], v) for n, v in head.state_dict().items())
    assert torch.equal(found, copy.deepcopy(head).eval()(x))
    found[0, 0].backward()
    fast = torch.compile(head, backend="eager", fullgraph=True)
    assert torch.equal(fast(x), found)
    two = activation(FEATURES["NCHW"], 2)
    assert torch.equal(fast(two), head(two))


@pytest.mark.parametrize("layout", FEATURES)
def test_mean_is_the_mean_over_all_places(layout: str) -> None:
    x, head = activation(FEATURES[layout]), heads.build("mean", FEATURES[layout], CLASSES)
    expected = x.movedim(layout.index("C"), 1).flatten(2).mean(2) if layout != "NC" else x
    assert torch.allclose(head(x), expected, atol=1e-6)
    assert parameters(head) == 0
