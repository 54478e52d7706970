"""Nearest images against a stable sort of float64 distances, ties and all."""

from __future__ import annotations

import pytest
import torch

from deepsup.tasks.feature_distances import Distances
from deepsup.tasks.nearest import nearest
from tests.support.retrieval_data import search


@pytest.mark.parametrize("count", [1, 5, 21, 400])
@pytest.mark.parametrize(("whole", "offset"), [(False, 0.0), (False, 1000.0), (True, 0.0)])
@pytest.mark.parametrize("block", [None, 1, 17])
def test_the_nearest_are_those_of_a_stable_sort(count: int, whole: bool, offset: float, block: int | None) -> None:
    data = search(1, whole=whole, offset=offset, queries=9, gallery=300)
    found = nearest(Distances(data.query, data.gallery, "euclidean", block=block), count)
    far = (data.query.double()[:, None] - data.gallery.double()[None]).square().sum(2)
    assert torch.equal(found.near, far.sort(dim=1, stable=True).indices[:, :count])
    assert torch.allclose(far.gather(1, found.far[:, None])[:, 0], far.amax(1))


def test_of_equal_images_the_first_are_the_nearest() -> None:
    same = torch.randn(1, 12).expand(500, 12)
    for distance in ("cosine", "euclidean"):
        found = nearest(Distances(same[:3], same, distance, block=64), 30).near
        assert torch.equal(found, torch.arange(30).expand(3, 30))
