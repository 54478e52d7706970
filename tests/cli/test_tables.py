"""The tables that the command line shows."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from deepsup import reports
from deepsup.cli.tables import comparison, probe_table, recommendation_table, setting
from deepsup.settings.section import override
from tests.support.probing import hand_made
from tests.support.synthetic_journals import COMPARISON, NINE, make_many


def shown(table: RenderableType, width: int = 110) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return [" ".join(line.split()) for line in capture.get().splitlines() if line.strip(" ─")]


def test_a_probe_shows_mean_percentile_share_and_activations() -> None:
    assert shown(probe_table(hand_made(1e-8, 1e-5, 1e-2, 0.0), 110)) == [
        "Net: |gradient| of each layer's weights, 2 iterations, top loss only",
        "layer depth mean p5 gone act. tap after",
        "a 25% 1.0e-08 █ 1.0e-09 50% 2.0e+00 tap_a",
        "b 50% 1.0e-05 █████████ 1.0e-06 50% 2.0e+00 tap_b",
        "c 75% 1.0e-02 ████████████████ 1.0e-03 50% 2.0e+00 tap_c",
        "d 100% 0.0e+00 0.0e+00 50% 2.0e+00",
        "p5: 5th percentile; gone: share under 1e-07; act.: mean |activation|",
    ]


@pytest.mark.parametrize("means", [(0.0, 0.0), (1.0, 1.0), (1.0,)])
def test_gradients_without_a_range_have_no_bars(means: tuple[float, ...]) -> None:
    assert "█" not in "".join(shown(probe_table(hand_made(*means))))


def test_a_recommendation_shows_the_chosen_places_and_the_next_weakest() -> None:
    lines = shown(recommendation_table(hand_made(*[1e-9, *[1e-3] * 9]).recommendation()))
    assert lines[0] == "layer chan. stride depth gradient head params FLOPs"
    assert lines[1] == "* tap_a 8 2 10% 1.0e-09 pool 90 160"
    assert lines[2] == "tap_b 8 2 20% 1.0e-03 pool 90 160"
    assert lines[-1] == "and 3 more with stronger gradients"


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", ["a", "stages.3.blocks.1.mlp.fc2"])
def test_no_row_is_wrapped_and_bars_take_the_room_that_is_left(width: int, name: str) -> None:
    found = hand_made(1e-8, 1e-5, 1e-2, 1.0)
    found = dataclasses.replace(found, rows=tuple(dataclasses.replace(r, layer=name) for r in found.rows))
    lines = shown(probe_table(found, width), width)
    assert sum((line.startswith(name + " ") and "e-" in line) or "e+00" in line for line in lines) == len(found.rows)
    assert sum("layer" in line and "tap after" in line for line in lines) == 1
    bars = max(line.count("█") for line in lines)
    assert bars == 16 if width == 120 else bars == 0 or 4 <= bars <= 16
    advice = shown(recommendation_table(found.recommendation(head="cnds(hidden=256)"), width), width)
    if width >= 80:
        assert "cnds(hidden=256)" in advice[1]
    assert len(advice) == 1 + len(found.points)


def test_a_setting_is_one_word_for_a_shell_and_reads_back_as_names() -> None:
    names = ["relu5", "0", "1.0", "yes", "layer1.0"]
    (word,) = shlex.split(setting(names))
    assert override({}, word) == {"supervise": {"at": names}}


def test_a_comparison_of_many_arms_ends_in_tables_and_says_what_is_missing(tmp_path: Path) -> None:
    result = reports.evidence(make_many(tmp_path)).compare | {
        "certificates": [{"identical": True}, {"identical": False}]
    }
    missing = [f"all/dhm/seed{seed}" for seed in range(8)]
    lines = [line for part in comparison(result | {"missing": missing}) for line in shown(part, 80)]
    assert [line.split()[0] for line in lines if line.startswith(tuple(NINE))] == [*NINE, *NINE, *NINE[1:]]
    assert "inference, every arm: 213 k parameters, 3.94 M FLOPs a sample" in lines
    assert sum(line.endswith(("helps", "hurts", "no evidence")) for line in lines) == len(NINE) - 1
    text = " ".join(lines)
    assert (
        "8 runs are missing: all/dhm/seed0, all/dhm/seed1, all/dhm/seed2, all/dhm/seed3, all/dhm/seed4, all/dhm/seed5, ..."
        in text
    )
    assert "The same command goes on with them." in text
    assert lines[-1] == "strip: 1 of 2 supervised models identical to the plain model"
    assert "missing" not in " ".join(line for part in comparison(result) for line in shown(part, 80))


def test_a_comparison_of_two_arms_ends_in_a_sentence() -> None:
    lines = [line for part in comparison(COMPARISON | {"certificates": []}) for line in shown(part)]
    assert lines[-3].startswith("sgd: helps. aux[1] minus plain: +85.0 points of accuracy")
    assert lines[-2].startswith("adam: no verdict yet.")
