"""The variance over images of what two arms differ by, seed by seed, from the answers that runs kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepsup.comparisons.image_variance import image_variances, variance

ANSWERS = {
    "a/seed0": "11110000", "b/seed0": "11111100",
    "a/seed1": "10101010", "b/seed1": "10101011",
    "a/seed2": "11111111", "b/seed2": "00000000",
}  # fmt: skip


def arm(name: str, final: list[float | None], *diverged: str) -> dict[str, Any]:
    return {"runs": [f"{name}/seed{i}" for i in range(3)], "final": final, "diverged": list(diverged)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for run, right in ANSWERS.items():
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "answers.json").write_text(json.dumps({"format": 1, "right": right}))
    return tmp_path


def by_hand(*seeds: int, lost: str = "") -> float:
    def of(run: str) -> list[int]:
        return [0] * 8 if run == lost else [int(one) for one in ANSWERS[run]]

    return float(np.var(np.mean([np.subtract(of(f"b/seed{s}"), of(f"a/seed{s}")) for s in seeds], 0), ddof=1))


def test_each_seed_adds_its_pair_to_the_mean(folder: Path) -> None:
    a, b = arm("a", [0.5] * 3), arm("b", [0.5] * 3)
    assert image_variances(folder, a, b, 8) == pytest.approx([by_hand(0), by_hand(0, 1), by_hand(0, 1, 2)])
    assert image_variances(folder, b, a, 8) == pytest.approx([by_hand(0), by_hand(0, 1), by_hand(0, 1, 2)])
    assert image_variances(folder, a, a, 8) == [0.0] * 3


def test_a_missing_pair_counts_for_nothing_and_a_run_that_diverged_is_wrong_about_everything(folder: Path) -> None:
    a = arm("a", [0.5] * 3)
    assert image_variances(folder, a, arm("b", [None, 0.5, 0.5]), 8) == [
        None, pytest.approx(by_hand(1)), pytest.approx(by_hand(1, 2)),
    ]  # fmt: skip
    gone = image_variances(folder, a, arm("b", [0.5, None, 0.5]), 8)
    assert gone == pytest.approx([by_hand(0), by_hand(0), by_hand(0, 2)])
    lost = image_variances(folder, a, arm("b", [0.5, None, 0.5], "b/seed1"), 8)
    assert lost == pytest.approx([by_hand(0), by_hand(0, 1, lost="b/seed1"), by_hand(0, 1, 2, lost="b/seed1")])


def test_where_answers_were_not_kept_nothing_is_known_from_there_on(folder: Path) -> None:
    a, b = arm("a", [0.5] * 3), arm("b", [0.5] * 3)
    assert image_variances(folder, a, b, None) == [None] * 3
    assert image_variances(folder, a, b, 9) == [None] * 3
    (folder / "b/seed1/answers.json").unlink()
    assert image_variances(folder, a, b, 8) == [pytest.approx(by_hand(0)), None, None]


def test_one_pair_is_the_variance_of_its_discordant_counts() -> None:
    draw = torch.Generator().manual_seed(0)
    right = [torch.rand(500, generator=draw) < 0.7 for _ in range(2)]
    gained, lost = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    expected = ((gained + lost) / 500 - ((gained - lost) / 500) ** 2) * 500 / 499
    assert variance([(right[0], right[1])]) == pytest.approx(expected)
