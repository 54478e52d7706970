"""Axes and panels: all values are on them, and what does not fit goes on below."""

from __future__ import annotations

import pytest

from deepsup.reports import panels


def test_more_panels_than_fit_go_on_below() -> None:
    layout = panels.beside(["a", "b", "c", "d"], height=400)["layout"]
    places = [(layout[f"xaxis{n}"]["domain"][0], layout[f"yaxis{n}"]["domain"]) for n in ("", "2", "3", "4")]
    assert places[0][0] == places[2][0] < places[1][0] == places[3][0]
    assert places[0][1] == places[1][1] > places[2][1] == places[3][1]
    assert layout["yaxis3"]["showticklabels"]
    assert places[2][1][1] < places[0][1][0]
    assert layout["height"] > 2 * 400 - 10


@pytest.mark.parametrize(
    ("values", "ends", "step"),
    [
        ([0.08, 0.97], (0.0, 1.0), 0.2),
        ([0.553, 0.587], (0.55, 0.59), 0.01),
        ([0.41, 0.55], (0.4, 0.56), 0.02),
        ([0.5], (0.5, 0.5), 0.01),
    ],
)
def test_an_axis_of_shares_fits_what_is_drawn(values: list[float], ends: tuple[float, float], step: float) -> None:
    figure = panels.beside(["a", "b"], height=300)
    assert panels.shares(figure, values) == pytest.approx(ends)
    for axis in ("yaxis", "yaxis2"):
        low, high = figure["layout"][axis]["range"]
        assert low <= ends[0] <= min(values) <= max(values) <= ends[1] <= high
        assert figure["layout"][axis]["dtick"] == step
