"""Scores of a search against slow loops in float64, by hand, and under every order, block and precision."""

from __future__ import annotations

import doctest
import warnings

import pytest
import torch
from sklearn.metrics import average_precision_score

from deepsup.errors import ConfigError, DatasetError
from deepsup.tasks import retrieval, retrieval_scores
from deepsup.tasks.search_files import Search
from tests.support.retrieval_data import peak_bytes, search, slow_metrics, slow_ranks


def line(identities: list[int], cameras: list[int] | None = None) -> dict[str, float]:
    """Metrics of one query of identity 7 on camera 1, the gallery in order of distance."""
    gallery = torch.arange(1.0, len(identities) + 1)[:, None]
    seen = ([1], cameras) if cameras else ()
    return retrieval_scores(torch.zeros(1, 1), gallery, [7], identities, *seen, distance="euclidean").metrics()


def test_the_example_at_the_top_is_right() -> None:
    found = doctest.testmod(retrieval, extraglobs={"retrieval_scores": retrieval_scores})
    assert (found.failed, found.attempted) == (0, 3)


def test_scores_by_hand() -> None:
    assert line([7, 8, 7, 9, 7])["mAP"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert line([7, 8, 7, 9, 7])["mAP (trapezoid)"] == pytest.approx(0.711111, abs=1e-6)
    assert line([7, 8, 7, 9, 7])["mINP"] == pytest.approx(3 / 5)
    assert line([7, 8, 7, 9, 7], [1, 2, 1, 2, 3])["mAP"] == pytest.approx(1 / 3)  # two are junk: 8, 9, match
    assert line([-1, 0, 7, -1, 7])["mAP"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert line([7]) == {"mAP": 1, "mAP (trapezoid)": 1} | {f"rank-{k}": 1 for k in (1, 5, 10, 20)} | {
        "mINP": 1,
        "queries": 1,
        "without match": 0,
    }
    far = line([*range(8, 13), 7])
    assert [far[f"rank-{k}"] for k in (1, 5, 10, 20)] == [0, 0, 1, 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("distance", "whole", "offset"),  # equal cosines of whole numbers: the slow loop's own rounding would order them
    [
        ("cosine", False, 0.0),
        ("cosine", False, 1000.0),
        *(("euclidean", *how) for how in [(False, 0.0), (False, 1e3), (True, 0.0)]),
    ],
)
def test_scores_are_those_of_a_slow_loop_for_any_block(distance: str, seed: int, whole: bool, offset: float) -> None:
    data = search(seed, whole=whole, offset=offset)
    expected = slow_metrics(slow_ranks(data, distance))
    for block in (None, 1, 7, len(data.gallery)):
        assert retrieval_scores(*data, distance=distance, block=block).metrics() == pytest.approx(expected, abs=1e-12)
    bare = data._replace(query_cameras=None, gallery_cameras=None)
    expected = slow_metrics(slow_ranks(bare, distance))
    assert retrieval_scores(*bare, distance=distance).metrics() == pytest.approx(expected, abs=1e-12)


def test_a_gallery_of_many_blocks_and_many_matches_is_scored_like_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    data = search(3, queries=300, gallery=3000, width=40)
    expected = slow_metrics(slow_ranks(data, "cosine"))
    assert retrieval_scores(*data).metrics() == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(retrieval, "OWN", 1000)
    assert retrieval_scores(*data).metrics() == pytest.approx(expected, abs=1e-12)


def test_average_precision_is_that_of_scikit_learn() -> None:
    data = search(1)._replace(query_cameras=None, gallery_cameras=None)
    data = data._replace(
        gallery=torch.randn(len(data.gallery), 6), gallery_identities=data.gallery_identities.clamp(min=0)
    )
    near = torch.nn.functional.cosine_similarity(data.query.double()[:, None], data.gallery.double()[None], dim=2)
    found = retrieval_scores(*data).precision
    for i, identity in enumerate(data.query_identities):
        truth = data.gallery_identities == identity
        assert float(found[i]) == pytest.approx(average_precision_score(truth, near[i]))


def test_equal_cosines_of_whole_numbers_and_equal_distances_rank_in_gallery_order() -> None:
    gallery = torch.tensor([[3.0, 4, 0], [9, 12, 0], [4, 0, 3], [1, 1, 1], [3, 3, 3]])
    for order in ([7, 8, 8, 9, 9], [8, 7, 8, 9, 9], [8, 8, 7, 9, 9]):
        found = retrieval_scores(torch.tensor([[1.0, 1, 1]]), gallery[:3], [7], order[:3])
        assert int(found.first[0]) == order.index(7) + 1
    assert int(retrieval_scores(torch.tensor([[1.0, 1, 1]]), gallery, [7], [8, 8, 8, 8, 7]).first[0]) == 2
    one = torch.randn(1, 33).expand(40, 33)
    identities = [8] * 29 + [7] + [8] * 10
    for distance in ("cosine", "euclidean"):
        for block in (1, 7, 40):
            assert int(retrieval_scores(one[:1], one, [7], identities, distance=distance, block=block).first[0]) == 30


def test_parts_of_the_queries_add_up_to_the_scores_of_all_in_any_order() -> None:
    data = search(4, queries=31)
    whole = retrieval_scores(*data).metrics()
    parts = [slice(0, 5), slice(5, 6), slice(6, None)]
    scored = [
        retrieval_scores(
            data.query[p],
            data.gallery,
            data.query_identities[p],
            data.gallery_identities,
            data.query_cameras[p],
            data[5],
        )
        for p in parts
    ]
    assert (scored[2] + scored[0] + scored[1]).metrics() == whole == (scored[0] + scored[1] + scored[2]).metrics()


def test_junk_changes_nothing_and_distractors_never_help() -> None:
    data = search(5)
    before = retrieval_scores(*data)
    junk = torch.cat([data.gallery, data.query]), torch.cat([data.gallery_identities, torch.full((12,), -1)])
    cameras = torch.cat([data.gallery_cameras, data.query_cameras])
    found = retrieval_scores(data.query, junk[0], data[2], junk[1], data[4], cameras)
    assert torch.equal(found.precision.nan_to_num(), before.precision.nan_to_num())
    distractors = torch.where(junk[1] == -1, 0, junk[1])
    found = retrieval_scores(data.query, junk[0], data[2], distractors, data[4], cameras)
    assert (found.precision <= before.precision)[before.matches > 0].all()
    good = found.precision[found.matches > 0]
    assert (good <= 1).all()
    assert (found.trapezoid[found.matches > 0] <= good).all()


def test_queries_without_a_match_are_counted_and_count_for_nothing() -> None:
    gallery = torch.tensor([[1.0], [2.0], [3.0]])
    found = retrieval_scores(
        torch.zeros(3, 1), gallery, [1, 2, 3], [1, 2, 5], [1, 1, 1], [2, 1, 1], distance="euclidean"
    )
    assert found.matches.tolist() == [1, 0, 0]
    assert found.images.tolist() == [1, 1, 0]
    assert found.metrics() | {"queries": 3, "without match": 2, "mAP": 1.0} == found.metrics()
    own_camera = retrieval_scores(torch.zeros(1, 1), gallery, [2], [1, 2, 5], [1], [1, 1, 1], distance="euclidean")
    with pytest.raises(DatasetError, match=r"1 query find.* on their own camera alone.*score without cameras"):
        own_camera.metrics()
    with pytest.raises(DatasetError, match="none of the identities of 1 query is in the gallery"):
        retrieval_scores(torch.zeros(1, 1), gallery, [9], [1, 2, -1], distance="euclidean").metrics()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int16])
def test_features_of_any_kind_are_scored_as_their_float32_numbers(dtype: torch.dtype) -> None:
    data = search(6)
    kind = data._replace(query=(data.query * 50).to(dtype), gallery=(data.gallery * 50).to(dtype))
    for distance in ("cosine", "euclidean"):
        assert (
            retrieval_scores(*kind, distance=distance).metrics()
            == retrieval_scores(
                *kind._replace(query=kind.query.float(), gallery=kind.gallery.float()), distance=distance
            ).metrics()
        )


def test_every_second_image_of_a_set_is_scored_without_a_copy_being_asked_for() -> None:
    data = search(2)
    halves = [side[::2] for side in data]
    assert retrieval_scores(*halves).metrics() == retrieval_scores(*(half.contiguous() for half in halves)).metrics()


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30, 1e200])
def test_features_of_any_size_are_scored_alike(size: float) -> None:
    data = search(7)
    query, gallery = data.query.double(), data.gallery.double()
    for distance in ("cosine", "euclidean"):
        found = retrieval_scores(query * size, gallery * size, *data[2:], distance=distance).metrics()
        assert found == pytest.approx(slow_metrics(slow_ranks(data, distance)), abs=1e-12)


def test_scores_do_not_hang_on_settings_outside_and_leave_them() -> None:
    data = search(8, queries=60, gallery=900, width=64)
    expected = retrieval_scores(*data).metrics()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            data.query.requires_grad_()
            assert retrieval_scores(*data).metrics() == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_memory_is_64_mib_beside_the_features_whatever_the_gallery() -> None:
    for queries, gallery, width in ((1100, 9000, 32), (40, 3000, 2048)):
        data = search(9, queries=queries, gallery=gallery, width=width)
        assert peak_bytes(lambda data=data: retrieval_scores(*data, distance="cosine")) < 64 * 2**20


FLAWED = [
    ({"query": torch.tensor([[1.0, float("nan")]])}, "query has features that are NaN or infinite, in row 0"),
    (
        {"gallery": torch.tensor([[1.0, 0], [float("inf"), 1]])},
        "gallery has features that are NaN or infinite, in row 1",
    ),
    ({"gallery": torch.tensor([[1.0, 0], [0, 0]])}, r"gallery has 1 row of zeros.*row 1\."),
    ({"query": torch.zeros(0, 2)}, r"query holds one feature a row.*\(0, 2\)"),
    ({"gallery": torch.zeros(2, 0)}, r"gallery holds one feature a row.*\(2, 0\)"),
    ({"query": torch.ones(2)}, r"query holds one feature a row.*\(2,\)"),
    ({"query": torch.ones(1, 3)}, "of one width; found 3 and 2"),
    ({"query": torch.ones(1, 2, dtype=torch.complex64)}, "query holds real numbers; found complex64"),
    ({"query": torch.ones(1, 2, dtype=torch.bool)}, "query holds real numbers; found bool"),
    ({"query_identities": [1, 2]}, "query_identities has one number an image; found 2 for 1 image"),
    ({"gallery_identities": [1]}, "gallery_identities has one number an image; found 1 for 2 images"),
    ({"query_cameras": [1, 2]}, "query_cameras has one number an image; found 2"),
    ({"gallery_cameras": [1, 2, 3]}, "gallery_cameras has one number an image; found 3"),
    ({"gallery_identities": [1.0, 2.5]}, "gallery_identities holds whole numbers; found 2.5 in place 1"),
    ({"gallery_identities": [1.0, float("nan")]}, "gallery_identities holds whole numbers; found nan in place 1"),
    ({"gallery_identities": [[1, 2]]}, r"one row of whole numbers; found int64 of the shape \(1, 2\)"),
    ({"gallery_identities": [True, False]}, "one row of whole numbers; found bool"),
    ({"gallery_identities": ["a", "b"]}, "gallery_identities holds whole numbers, one an image"),
    ({"gallery_identities": [1, -2]}, r"gallery_identities are -1 \(junk\).*found -2 in place 1"),
    ({"query_identities": [0]}, "query_identities are 1 and up.*found 0 in place 0"),
    ({"query_identities": [-1]}, "query_identities are 1 and up.*found -1"),
    ({"query_cameras": [-1]}, "query_cameras are 0 and up; found -1 in place 0"),
    ({"gallery_cameras": [0, -3]}, "gallery_cameras are 0 and up; found -3 in place 1"),
    ({"gallery_cameras": None}, "cameras are of both sides or of none; gallery_cameras is not there"),
]


@pytest.mark.parametrize(("flaw", "says"), FLAWED, ids=[says[:40] for _, says in FLAWED])
def test_what_cannot_be_scored_is_refused_by_name(flaw: dict, says: str) -> None:
    sound = Search(
        torch.ones(1, 2), torch.eye(2), torch.tensor([1]), torch.tensor([1, 2]), torch.tensor([0]), torch.tensor([1, 1])
    )
    assert retrieval_scores(*sound).metrics()["mAP"] == 1
    with warnings.catch_warnings(), pytest.raises(DatasetError, match=says):
        retrieval_scores(**(sound._asdict() | flaw))


@pytest.mark.parametrize("wrong", [torch.tensor([1, 2**64 - 1], dtype=torch.uint64), torch.tensor([1.0, 1e19])])
def test_identities_that_do_not_fit_are_no_junk(wrong: torch.Tensor) -> None:
    with pytest.raises(DatasetError, match=r"numbers of 64 bits, below 2\*\*63; found .* in place 1"):
        retrieval_scores(torch.ones(1, 2), torch.eye(2), [1], wrong)


def test_unknown_distances_and_empty_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no distance is called 'cosin'\. Closest: cosine\."):
        retrieval_scores(torch.ones(1, 2), torch.eye(2), [1], [1, 2], distance="cosin")
    with pytest.raises(ConfigError, match="at least 1 gallery image; found block=0"):
        retrieval_scores(torch.ones(1, 2), torch.eye(2), [1], [1, 2], block=0)
