"""A plan of before gets the heads of before, where the same text now means others."""

from __future__ import annotations

from pathlib import Path

import pytest

import deepsup as ds
from deepsup.features import Feature
from deepsup.heads.older_heads import as_written

KEPT = Path(__file__).parents[1] / "kept" / "finished" / "plan.json"
TODAY = 4 * 6 + 4 + 4 * 7 * 7 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3  # 7x7 from 16x16, rounded up
BEFORE = 4 * 6 + 4 + 4 * 6 * 6 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3


@pytest.mark.parametrize(
    ("head", "params", "expected"),
    [
        ("cnds(width=4, hidden=8)", TODAY, "cnds(width=4, hidden=8)"),
        ("cnds(width=4, hidden=8)", BEFORE, "cnds(width=4, hidden=8, ceil=False)"),
        ("cnds(width=4, hidden=8)", 7, "cnds(width=4, hidden=8)"),  # of no version: not to be guessed
        ("cnds(width=4, hidden=8, ceil=True)", BEFORE, "cnds(width=4, hidden=8, ceil=True)"),
        ("pool", 21, "pool"),
    ],
)
def test_a_head_is_known_by_how_large_it_was(head: str, params: int, expected: str) -> None:
    assert as_written(head, Feature((6, 16, 16), "NCHW"), 3, params) == expected


def test_a_plan_of_before_gets_them() -> None:
    assert {b.head for b in ds.Plan.load(KEPT).branches} == {"cnds(width=4, hidden=8, ceil=False)"}
