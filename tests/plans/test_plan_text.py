"""How the parts of a plan print."""

from __future__ import annotations

import pytest

from deepsup.plans.plan_text import mimicry, share
from deepsup.terms import Edge


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(5, 0, "5"), (189, 1000, "18.9%"), (1, 10_000, "under 0.1%"), (0, 100, "0.0%"), (1200, 100, "12 times the")],
)
def test_what_a_part_adds(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


def test_terms_of_one_loss_and_weight_stand_in_one_line() -> None:
    edges = [Edge("main", "late", loss="kl"), Edge("late", "main", loss="kl")]
    edges.append(Edge("a", "b", loss="hint", weight="constant(2)"))
    assert mimicry(edges) == ["  1 * kl: main <- late; late <- main", "  2 * hint: a <- b"]
