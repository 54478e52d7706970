"""The tables that the command line shows."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.table import Table

from deepsup.screens import probe_table, recommendation_table

from .test_placements import hand_made


def shown(table: Table) -> list[str]:
    console = Console(width=110)
    with console.capture() as capture:
        console.print(table)
    return [" ".join(line.split()) for line in capture.get().splitlines() if line.strip(" ─")]


def test_a_probe_shows_mean_percentile_share_and_activations() -> None:
    assert shown(probe_table(hand_made(1e-8, 1e-5, 1e-2, 0.0))) == [
        "Net: |gradient| of each layer's weights, 2 iterations of the top loss alone",
        "layer depth mean 5th perc. vanished activation tap after",
        "a 25% 1.0e-08 █ 1.0e-09 50% 2.0e+00 tap_a",
        "b 50% 1.0e-05 █████████ 1.0e-06 50% 2.0e+00 tap_b",
        "c 75% 1.0e-02 ████████████████ 1.0e-03 50% 2.0e+00 tap_c",
        "d 100% 0.0e+00 0.0e+00 50% 2.0e+00",
        "vanished: share of the gradients under 1e-07; activation: mean |value| on the way up",
    ]


@pytest.mark.parametrize("means", [(0.0, 0.0), (1.0, 1.0), (1.0,)])
def test_gradients_without_a_range_have_no_bars(means: tuple[float, ...]) -> None:
    assert "█" not in "".join(shown(probe_table(hand_made(*means))))


def test_a_recommendation_shows_the_chosen_places_and_the_next_weakest() -> None:
    lines = shown(recommendation_table(hand_made(*[1e-9, *[1e-3] * 9]).recommendation()))
    assert lines[0] == "layer channels stride depth gradient head params head FLOPs"
    assert lines[1] == "* tap_a 8 2 10% 1.0e-09 90 160"
    assert lines[2] == "tap_b 8 2 20% 1.0e-03 90 160"
    assert lines[-1] == "and 3 more with stronger gradients"
