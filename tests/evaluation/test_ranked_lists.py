"""Tests of what a search leaves to be looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from deepsup.evaluation.ranked_lists import CURVE, FILE, FOLDER, curve, first, keep
from deepsup.evaluation.search import Embedded, How, rankings
from deepsup.tasks.image_values import image_values
from tests.support.drawn_search import SearchSplit
from tests.support.retrieval_data import search, slow_ranks
from tests.support.slow_reranking import dense_reranking


def embedded(seed: int = 0, **options: Any) -> Embedded:
    split = SearchSplit(seed, **options)
    features = F.normalize(split.images.flatten(1))
    return Embedded(split, {"early": F.normalize(features[:, :2]), "main": features})


def test_the_first_of_a_ranking_are_those_of_a_sort_in_float64_ties_in_order() -> None:
    data = search(1, whole=True, gallery=60)
    far = 1 - F.normalize(data.query[:1].double()) @ F.normalize(data.gallery.double()).T
    order = far[0].mul(1e9).round().sort(stable=True)
    found = first(data.query, data.gallery, top=20)[0]
    assert found.columns == order.indices[:20].tolist()
    assert found.distances == pytest.approx(far[0, found.columns].tolist(), abs=1e-9)
    chosen = torch.arange(0, 60, 3)
    (among,) = first(data.query[:1], data.gallery, chosen, top=5)
    assert among.columns == [c for c in order.indices.tolist() if c % 3 == 0][:5]
    assert len(first(data.query[:1], data.gallery, torch.tensor([7]), top=5)[0].columns) == 1


def test_re_ranked_the_first_are_those_of_the_formulas() -> None:
    data = search(2, gallery=40)
    judge = dense_reranking(data.query, data.gallery, "cosine", 20, 6, 0.3)
    for row, found in enumerate(first(data.query, data.gallery, top=6, rerank=True)):
        assert found.distances == pytest.approx(sorted(judge[row].tolist())[:6], abs=1e-5)
        assert judge[row, found.columns].tolist() == pytest.approx(found.distances, abs=1e-5)


def test_a_run_keeps_its_first_query_and_the_worst_with_what_every_output_found(tmp_path: Path) -> None:
    found = embedded()
    split: Any = found.split
    scores = rankings(found)["main"].scores
    keep(tmp_path, found, How(), metric="mAP")
    told = json.loads((tmp_path / FOLDER / FILE).read_text())
    assert told["cameras"]
    shown = [split.names.index(query["name"]) for query in told["queries"]]
    able = [i for i in range(12) if scores.matches[i]]
    assert shown[0] == able[0]
    assert shown[1:] == sorted(able[1:], key=lambda i: float(scores.precision[i]))[:3]
    ranks = slow_ranks(split.search, "cosine")
    for query, row in zip(told["queries"], shown, strict=True):
        assert list(query["outputs"]) == ["early", "main"]
        main = query["outputs"]["main"]
        assert main["precision"] == float(scores.precision[row])
        assert [rank for rank, right in enumerate(main["right"], 1) if right] == [r for r in ranks[row] if r <= 10]
        assert main["distances"] == sorted(main["distances"])
        for name in main["found"]:  # neither junk nor what its own camera saw of it
            image = split.names.index(name)
            assert split.identities[image] != -1
            own = split.identities[image] == split.identities[row]
            assert not (own and split.cameras[image] == split.cameras[row])
        with Image.open(tmp_path / FOLDER / query["file"]) as drawn:
            assert drawn.width > 10 * 64
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert answers["scores"] == [None if not m else p for m, p in zip(scores.matches, scores.precision, strict=True)]


@pytest.mark.parametrize("metric", ["mAP", "rank-1"])
def test_what_identities_add_to_the_score_is_kept_for_verdicts(metric: str, tmp_path: Path) -> None:
    found = embedded()
    keep(tmp_path, found, How(), metric=metric)
    scores = rankings(found)["main"].scores
    each = scores.precision if metric == "mAP" else (scores.first == 1).double()
    of = found.split.identities[:12]
    able = scores.matches > 0
    whole, n = each[able].mean(), len(of[able].unique())
    without = [each[able & (of != one)].mean() for one in of[able].unique()]
    values = image_values(tmp_path, metric)
    assert values is not None
    assert values.tolist() == pytest.approx([float(n * whole - (n - 1) * w) for w in without])
    assert image_values(tmp_path, "mINP") is None  # kept for the metric that counts


def test_curves_count_the_queries_that_have_found_a_match(tmp_path: Path) -> None:
    found = embedded()
    ranks = [r for r in slow_ranks(found.split.search, "cosine") if r]
    drawn = curve(rankings(found)["main"].scores)
    assert drawn == [sum(r[0] <= k for r in ranks) / len(ranks) for k in range(1, CURVE + 1)]


def test_without_cameras_nothing_of_its_own_is_left_out(tmp_path: Path) -> None:
    found = embedded(cameras=False)
    keep(tmp_path, found, How(multi_query="mean"), metric="mAP")
    told = json.loads((tmp_path / FOLDER / FILE).read_text())
    assert not told["cameras"]
    main: dict[str, Any] = told["queries"][1]["outputs"]["main"]
    asked: Tensor = rankings(found, How(multi_query="mean"))["main"].scores.precision
    assert main["precision"] == float(asked[found.split.names.index(told["queries"][1]["name"])])
