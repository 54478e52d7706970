"""Heads that give maps: the published layers, two and three places, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepsup as ds
from deepsup import heads
from deepsup.errors import HeadError
from deepsup.features import Feature
from deepsup.heads import dense
from tests.support.tiny_maps import CLASSES, TinySegmenter, maps

MAP, VOLUME = Feature((8, 6, 4), "NCHW"), Feature((8, 6, 4, 2), "NCDHW")


@pytest.mark.parametrize("text", ["fcn", "fcn(width=3, layers=2, dropout=0)", "fcn(layers=0)", "c1", "conv1x1"])
@pytest.mark.parametrize("feature", [MAP, VOLUME, Feature((6, 4, 8), "NHWC")], ids=lambda f: f.layout)
def test_every_head_keeps_the_places_and_gives_a_score_a_class(text: str, feature: Feature) -> None:
    head = heads.build(text, feature, 5)
    assert head(torch.randn(2, *feature.shape)).shape == (2, 5, *feature.size)


def layers(head: nn.Module) -> list[str]:
    """As they print, without what later versions of PyTorch add to batch normalisation's."""
    return [f"BatchNorm2d({m.num_features})" if isinstance(m, nn.BatchNorm2d) else str(m) for m in head.children()]


def test_fcn_is_the_auxiliary_head_of_pspnet() -> None:
    head = heads.build("fcn", Feature((1024, 60, 60), "NCHW"), 150)
    assert layers(head) == [
        "Conv2d(1024, 256, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)",
        "BatchNorm2d(256)",
        "ReLU()",
        "Dropout2d(p=0.1, inplace=False)",
        "Conv2d(256, 150, kernel_size=(1, 1), stride=(1, 1))",
    ]
    assert sum(p.numel() for p in head.parameters()) == 9 * 1024 * 256 + 2 * 256 + 256 * 150 + 150


@pytest.mark.parametrize(("text", "dropout"), [("c1", []), ("c1(dropout=0.1)", ["Dropout2d(p=0.1, inplace=False)"])])
def test_c1_is_the_auxiliary_head_of_csail_on_conv4(text: str, dropout: list[str]) -> None:
    fc_dim = 2048
    head = heads.build(text, Feature((fc_dim // 2, 60, 60), "NCHW"), 150)
    assert layers(head) == [
        "Conv2d(1024, 512, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)",
        "BatchNorm2d(512)",
        "ReLU()",
        *dropout,
        "Conv2d(512, 150, kernel_size=(1, 1), stride=(1, 1))",
    ]


@pytest.mark.parametrize("text", ["c1", "c1(dropout=0.1)", "c1(width=40)"])
def test_c1_begins_as_csail_begins_its_decoders(text: str) -> None:
    torch.manual_seed(0)
    head = heads.build(text, Feature((64, 6, 6), "NCHW"), 50)
    for layer in head:
        if isinstance(layer, nn.Conv2d):  # kaiming: N(0, 2 / fan_in)
            std = (2 / layer.weight[0].numel()) ** 0.5
            assert abs(layer.weight.std().item() / std - 1) < 4 / (2 * layer.weight.numel()) ** 0.5
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.unique().tolist() == [1.0]
            assert layer.bias.unique().tolist() == pytest.approx([1e-4])


def test_identity_is_for_layers_that_already_give_scores() -> None:
    x = torch.randn(2, 8, 6, 4)
    assert heads.build("identity", MAP, 8)(x) is x
    with pytest.raises(
        HeadError, match=r"takes the activation for the scores of 5 classes, \(N, 5, ...\), but it is 8x6x4"
    ):
        heads.build("identity", MAP, 5)


@pytest.mark.parametrize("text", ["fcn", "c1", "conv1x1"])
def test_vectors_are_refused(text: str) -> None:
    with pytest.raises(HeadError, match="reads sequences, maps"):
        heads.build(text, Feature((8,), "NC"), 5)


@pytest.mark.parametrize("text", ["fcn", "c1", "conv1x1", "tokenwise"])
@pytest.mark.parametrize("layout", ["NLC", "NHWC", "NDHWC"])
def test_places_of_any_number_are_scored_one_by_one(text: str, layout: str) -> None:
    feature = Feature((*(9, 7, 5)[: len(layout) - 2], 8), layout)
    head = heads.build(text, feature, 5).eval()
    x = torch.randn(2, *feature.shape)
    found = head(x)
    assert found.shape == (2, 5, *feature.size)
    if text in ("conv1x1", "tokenwise"):  # what a place says depends on nothing but itself
        alone = head(x[(slice(None), *(slice(1) for _ in feature.size))])
        assert torch.allclose(alone.flatten(), found[(..., *(slice(1) for _ in feature.size))].flatten(), atol=1e-6)


def test_tokenwise_reads_tokens() -> None:
    with pytest.raises(HeadError, match=r"head 'tokenwise' reads tokens \(N, L, C\)"):
        heads.build("tokenwise", Feature((8, 9), "NCL"), 5)


def test_auto_is_fcn_where_the_model_predicts_maps() -> None:
    assert heads.resolve("auto", MAP, places=2) == dense.fcn.__name__
    assert heads.resolve("auto", Feature((9, 8), "NLC"), places=1) == "tokenwise"
    assert heads.resolve("auto", MAP) == "pool"
    plan = ds.plan(TinySegmenter(), maps(2)[0], "layer2")
    assert plan.branches[0].head == "fcn"
    assert plan.branches[0].predicts


def test_scores_meet_the_target_at_any_size_but_with_as_many_classes() -> None:
    x, _ = maps(2)
    with pytest.raises(HeadError, match=r"predicts \(5,\) a sample, the model itself \(5, 16, 16\).* fcn, c1, conv1x1"):
        ds.plan(TinySegmenter(), x, "layer2", head="pool")
    wrong = nn.Conv2d(6, CLASSES + 1, 1)
    with pytest.raises(HeadError, match=r"predicts \(6, 8, 8\) a sample, the model itself \(5, 16, 16\)"):
        ds.plan(TinySegmenter(), x, "layer2", head=wrong)
    without = r"squared_hinge does not bring maps of two sizes together; these do: cross_entropy, "
    with pytest.raises(HeadError, match=without):
        ds.plan(TinySegmenter(), x, "layer2", head="conv1x1", branch_loss="squared_hinge")
