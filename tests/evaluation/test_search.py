"""Tests of validation by search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deepsup.errors import ConfigError, DatasetError
from deepsup.evaluation.evaluate import evaluate
from deepsup.evaluation.loaders import SplitLoader
from deepsup.evaluation.search import Embedded, How, embed, in_gallery, pooled, rankings, searched
from deepsup.tasks import KReciprocal, retrieval_scores
from tests.support.drawn_search import SearchSplit, counting, pixels
from tests.support.numbered_splits import numbered
from tests.support.retrieval_data import slow_metrics, slow_ranks
from tests.support.warm_python import WarmPython


class Nothing(nn.Module):
    """Whose forward must not be called: in a search `run` takes its place."""


def test_every_output_is_scored_from_one_forward_of_every_image() -> None:
    split, seen = SearchSplit(), list[int]()
    found = evaluate(Nothing(), SplitLoader(split, 50, shuffle=False), run=counting(seen))
    assert (sum(seen), len(seen)) == (162, 4)
    assert found.loss == {}
    assert (found.metric, found.samples, found.task.name) == ("mAP", 12, "re-identification")
    for output, width in {"main": 4, "early": 2}.items():
        data = split.search._replace(query=split.search.query[:, :width], gallery=split.search.gallery[:, :width])
        judge = slow_metrics(slow_ranks(data, "cosine"))
        assert found.score[output] == pytest.approx(judge["mAP"], abs=1e-9)
        assert found.metrics[output] == pytest.approx({k: v for k, v in judge.items() if k in found.metrics[output]})
    told = found.record()
    assert (told["queries"], told["without match"], told["score"]) == (12, judge["without match"], found.score)
    assert told["scores"]["main"]["rank-5"] == found.metrics["main"]["rank-5"]
    assert evaluate(Nothing(), split, run=pixels, metric="rank-1").score["main"] == found.metrics["main"]["rank-1"]


def test_without_cameras_the_same_camera_counts() -> None:
    split = SearchSplit(cameras=False)
    found = evaluate(Nothing(), split, run=pixels)
    without = split.search._replace(query_cameras=None, gallery_cameras=None)
    assert found.score["main"] == pytest.approx(slow_metrics(slow_ranks(without, "cosine"))["mAP"])


def test_a_search_re_ranks_where_asked() -> None:
    split = SearchSplit()
    found = evaluate(Nothing(), split, run=pixels, how=How(rerank=True))
    data = split.search._replace(query=F.normalize(split.search.query), gallery=F.normalize(split.search.gallery))
    plain = evaluate(Nothing(), split, run=pixels)
    assert found.score["main, re-ranked"] == retrieval_scores(*data, rerank=KReciprocal()).metrics()["mAP"]
    assert found.score["main"] == plain.score["main"] != found.score["main, re-ranked"]
    assert [*found.score] == [*plain.score, *(f"{name}, re-ranked" for name in plain.score)]


@pytest.mark.parametrize("how", ["mean", "max"])
def test_a_query_may_be_all_images_of_its_identity_on_its_camera(how: str) -> None:
    split: Any = SearchSplit()
    split.identities[:4], split.cameras[:4] = torch.tensor([1, 1, 1, 2]), torch.tensor([0, 0, 1, 0])
    split.more_queries = torch.zeros(162, dtype=torch.bool)
    split.more_queries[161], split.identities[161], split.cameras[161] = True, 1, 0
    features = torch.randn(162, 3)
    found = pooled(Embedded(split, {"main": features}), "main", torch.tensor([0, 1, 2, 3]), how)
    alike = split.queries & (split.identities == 1) & (split.cameras == 0)
    alike[161] = True
    expected = features[alike].mean(0) if how == "mean" else features[alike].amax(0)
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], expected)
    assert not torch.equal(found[2], expected)
    other = split.queries & (split.identities == 2) & (split.cameras == 0)
    assert torch.equal(found[3], features[other].mean(0) if how == "mean" else features[other].amax(0))
    assert not in_gallery(split)[161]
    one = rankings(Embedded(split, {"main": features}), How(multi_query=how))["main"].scores
    assert one.precision[0] == one.precision[1]
    with pytest.raises(ConfigError, match=r"multi_query='mead'.*mean or max"):
        How(multi_query="mead")


def test_what_a_search_cannot_be_scored_by_is_refused_before_an_image_is_read() -> None:
    seen: list[int] = []

    def mine(scores: Any, target: Any) -> float:
        return 1.0

    with pytest.raises(ConfigError, match="metric 'mine' reads scores batch by batch"):
        evaluate(Nothing(), SearchSplit(), run=counting(seen), metric=mine)
    with pytest.raises(ConfigError, match=r"have no metric 'mAP \(trapezoid'. Closest: mAP \(trapezoid\)\."):
        evaluate(Nothing(), SearchSplit(), run=counting(seen), metric="mAP (trapezoid")
    assert seen == []


def test_an_embedding_that_is_not_finite_is_an_error_with_the_name_of_its_image() -> None:
    def spoilt(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"main": torch.where(x.flatten(1) == split.images[20].flatten(), torch.nan, x.flatten(1))}

    split = SearchSplit()
    with pytest.raises(DatasetError, match=r"the embedding of gallery/020\.png by main is NaN or infinite"):
        embed(SplitLoader(split, 64, shuffle=False), spoilt, device=torch.device("cpu"))


def test_only_a_split_of_queries_and_gallery_is_searched() -> None:
    assert searched(numbered(3)) is None
    assert searched([(torch.zeros(1), torch.zeros(1))]) is None
    assert searched(SearchSplit()).split.task == "re-identification"  # type: ignore[union-attr]


def test_processes_share_images_and_queries_and_find_the_same(tmp_path: Path, warm: WarmPython) -> None:
    """5 processes: the last batches of some are empty, and every query counts once."""
    words = ["-m", "tests.support.search_worker", str(tmp_path)]
    with (tmp_path / "said").open("w") as said:
        every = [warm.start([*words, str(rank), "5"], stdout=said, stderr=said) for rank in range(5)]
    assert [process.wait() for process in every] == [0] * 5, (tmp_path / "said").read_text()[-3000:]
    alone = evaluate(Nothing(), SearchSplit(), run=pixels)
    reranked = evaluate(Nothing(), SearchSplit(), run=pixels, how=How(rerank=True))
    for rank in range(5):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["scores"] == alone.metrics
        assert found["reranked"] == reranked.metrics
        assert found["samples"] == 12
        assert found["first"] == rankings_first(alone)
        assert found["images"] < 162 / 2


def rankings_first(found: Any) -> list[int]:
    return list(found.counts["main"].scores.first.tolist())


def test_a_plain_model_is_told_which_layer_makes_its_scores() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8))
    split = SearchSplit()
    usual, first = evaluate(net, split), evaluate(net, split, how=How(layer="1"))
    assert first.score["main"] == evaluate(net, split, run=pixels).score["main"] != usual.score["main"]
    assert set(usual.score) == {"main"}
