"""k-reciprocal re-ranking against its formulas on whole matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deepsup.errors import ConfigError, DatasetError
from deepsup.tasks import KReciprocal, reranking, retrieval_scores
from deepsup.tasks.reranking import Reranked
from tests.support.retrieval_data import peak_bytes, ranks_by, search, slow_metrics
from tests.support.slow_reranking import dense_reranking


def groups(seed: int, *, queries: int = 20, gallery: int = 110, whole: bool = False) -> tuple[Tensor, Tensor]:
    """Features around twelve centres."""
    chance = torch.manual_seed(seed)
    centres = 1.5 * torch.randn(12, 8, generator=chance)

    def features(n: int) -> Tensor:
        found = centres[torch.randint(0, 12, (n,), generator=chance)] + torch.randn(n, 8, generator=chance)
        return found.round() if whole else found

    return features(queries), features(gallery)


def distances(query: Tensor, gallery: Tensor, distance: str, how: KReciprocal) -> Tensor:
    rows, columns = len(query), len(gallery)
    keys = Reranked(query, gallery, distance, how, chosen=torch.arange(columns)).of(torch.arange(rows))
    exact = keys.exact(torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows))
    found = exact.key.view(rows, columns)
    for row, column, values in keys.blocks():
        here = slice(row, row + len(values)), slice(column, column + values.shape[1])
        assert ((values - found[here]).abs() < keys.error[here[0], None]).all()
    return found


@pytest.mark.parametrize("how", [KReciprocal(), KReciprocal(6, 3, 0.1), KReciprocal(5, 1, 0.5), KReciprocal(4, 9, 0)])
@pytest.mark.parametrize(("distance", "whole"), [("cosine", False), ("euclidean", False), ("euclidean", True)])
@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_the_formulas(seed: int, distance: str, whole: bool, how: KReciprocal) -> None:
    query, gallery = groups(seed, whole=whole)
    expected = dense_reranking(query, gallery, distance, how.k1, how.k2, how.weight)
    torch.testing.assert_close(distances(query, gallery, distance, how), expected, rtol=0, atol=1e-9)


def test_small_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = groups(7)
    whole = distances(query, gallery, "cosine", KReciprocal())
    monkeypatch.setattr(reranking, "CELLS", 200)
    monkeypatch.setattr(reranking, "ROWS", 7)
    assert torch.equal(distances(query, gallery, "cosine", KReciprocal()), whole)


@pytest.mark.parametrize("gallery", [1, 2, 10])
def test_galleries_smaller_than_k1_are_re_ranked(gallery: int) -> None:
    query, found = groups(3, queries=2, gallery=gallery)
    expected = dense_reranking(query, found, "euclidean", 20, 6, 0.3)
    torch.testing.assert_close(distances(query, found, "euclidean", KReciprocal()), expected, rtol=0, atol=1e-9)


def test_images_that_are_all_the_same_rank_in_gallery_order() -> None:
    same, labels = torch.ones(40, 3), [8] * 29 + [7] + [8] * 10
    for distance in ("cosine", "euclidean"):
        found = retrieval_scores(same[:1], same, [7], labels, distance=distance, rerank=KReciprocal())
        assert found.first.tolist() == [30]


def test_scores_are_those_of_the_formulas_where_junk_has_neighbours_too() -> None:
    data = search(4, queries=25, gallery=120)
    query, gallery = groups(4, queries=25, gallery=120)
    data = data._replace(query=query, gallery=gallery)
    far = dense_reranking(query, gallery, "cosine", 20, 6, 0.3)
    found = retrieval_scores(*data, rerank=KReciprocal()).metrics()
    assert found == pytest.approx(slow_metrics(ranks_by(data, far)), abs=1e-12)


def test_memory_is_far_below_that_of_one_whole_matrix() -> None:
    data = search(5, queries=600, gallery=6000, width=16)
    data = data._replace(gallery=torch.randn(6000, 16, generator=torch.manual_seed(0)))
    assert peak_bytes(lambda: retrieval_scores(*data, rerank=KReciprocal())) < 6600**2 * 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k1": 0}, "needs k1 to be a whole number of at least 1; found 0"),
        ({"k2": 1.5}, "needs k2 to be a whole number of at least 1; found 1.5"),
        ({"k1": True}, "needs k1 to be a whole number of at least 1; found True"),
        ({"weight": 1.1}, "needs weight to be a number from 0 to 1; found 1.1"),
        ({"weight": float("nan")}, "needs weight to be a number from 0 to 1; found nan"),
    ],
)
def test_numbers_out_of_range_are_refused(options: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        KReciprocal(**options)


def test_features_that_cannot_be_compared_are_called_by_their_names() -> None:
    with pytest.raises(DatasetError, match="gallery has features that are NaN or infinite, in row 1"):
        retrieval_scores(torch.ones(1, 1), torch.tensor([[1.0], [torch.nan]]), [1], [1, 2], rerank=KReciprocal())
