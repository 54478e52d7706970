"""What a split of identities holds, against counting one by one; and searches that find nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepsup.datasets import IdentitySplit
from deepsup.datasets.identity_counts import check_searchable, counts, matches, said
from deepsup.errors import DatasetError


def searched(query: list[tuple[int, int]], gallery: list[tuple[int, int]], *, cameras: bool = True) -> IdentitySplit:
    """Identity and camera of every image."""
    rows = torch.tensor([*query, *gallery])
    return IdentitySplit(
        torch.zeros(len(rows), 3, 8, 8, dtype=torch.uint8),
        identities=rows[:, 0],
        cameras=rows[:, 1] if cameras else None,
        names=[f"{i}.png" for i in range(len(rows))],
        class_names=["a", "b"],
        shape=(8, 8),
        queries=torch.arange(len(rows)) < len(query),
    )


def one_by_one(split: IdentitySplit, cameras: Tensor | None) -> list[int]:
    rows = range(len(split))
    return [
        sum(
            not split.queries[g]
            and bool(split.identities[g] == split.identities[q])
            and (cameras is None or bool(cameras[g] != cameras[q]))
            for g in rows
        )
        for q in rows
        if split.queries[q]
    ]


@pytest.mark.parametrize("seed", range(5))
def test_matches_are_those_of_a_loop(seed: int) -> None:
    chance = torch.manual_seed(seed)
    who = torch.randint(-1, 5, (40,), generator=chance)
    who[:9] = who[:9].clamp(min=1)
    pairs = list(zip(who.tolist(), torch.randint(1, 4, (40,), generator=chance).tolist(), strict=True))
    split = searched(pairs[:9], pairs[9:])
    assert matches(split).tolist() == one_by_one(split, split.cameras)
    assert matches(split, cameras=False).tolist() == one_by_one(split, None)
    assert matches(searched(pairs[:9], pairs[9:], cameras=False)).tolist() == one_by_one(split, None)


def test_counts_in_words() -> None:
    split = searched([(1, 1), (2, 1)], [(1, 1), (1, 2), (2, 2), (0, 1), (0, 2), (-1, 1)])
    assert counts(split) == {
        "queries": 2, "identities": 2, "more queries": 0,
        "gallery": 6, "distractors": 2, "junk": 1, "without match": 0, "cameras": 2,
    }  # fmt: skip
    assert said(counts(split)) == "2 queries of 2 identities, a gallery of 6 (2 distractors, 1 junk), 2 cameras"
    assert check_searchable(split) == []


def test_queries_without_a_match_are_named_with_why() -> None:
    notes = check_searchable(searched([(1, 1), (2, 1), (3, 1)], [(1, 2), (2, 1)]))
    assert notes == [
        "1 query has no match, since their identity is not in the gallery, and count for nothing: 2.png",
        "1 query has no match, since their identity is there on their own camera alone, and count for nothing: 1.png",
    ]


def test_a_search_in_which_nothing_can_be_found_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"none of the 2 query identities is in the gallery, such as that of 0\.png"):
        check_searchable(searched([(1, 1), (2, 1)], [(0, 1), (3, 2)]))
    alone = [(1, 1), (2, 1)], [(1, 1), (2, 1)]
    with pytest.raises(
        DatasetError, match=r"every query is on the only camera of its matches \(2 identities.*cameras=False"
    ):
        check_searchable(searched(*alone))
    assert check_searchable(searched(*alone, cameras=False)) == []
