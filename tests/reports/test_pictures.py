"""The picture of two probes, without and with branches. Pictures of journals are tested with the reports."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from deepsup import reports
from deepsup.errors import ConfigError
from deepsup.probes import Probe
from tests.support.probing import hand_made
from tests.support.synthetic_journals import NINE


def supervised(probe: Probe, *branches: str) -> Probe:
    return dataclasses.replace(probe, branches=branches)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1e-8, 1e-5, 1e-2), (1e-4, 1e-4, 1e-2)),
        ((0.0, 0.0, 1e-2), (0.0, 1e-4, 1e-2)),  # nothing to draw on a logarithmic scale
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        (tuple([1e-3] * 12), tuple([1e-3] * 12)),
    ],
)
def test_two_probes_are_drawn(before: tuple[float, ...], after: tuple[float, ...], tmp_path: Path) -> None:
    out = reports.gradient_figure(
        hand_made(*before), supervised(hand_made(*after), "tap_a", "elsewhere"), tmp_path / "new" / "a.png"
    )
    assert out.read_bytes().startswith(b"\x89PNG")
    again = reports.gradient_figure(
        hand_made(*before), supervised(hand_made(*after), "tap_a", "elsewhere"), tmp_path / "b.png"
    )
    assert again.read_bytes() == out.read_bytes()
    other = reports.gradient_figure(hand_made(*before), supervised(hand_made(*after), "tap_b"), tmp_path / "c.png")
    assert other.read_bytes() != out.read_bytes()  # the branches are in it


def test_probes_of_different_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="these are probes of different models: Net with 2 layers, Net with 3"):
        reports.gradient_figure(hand_made(1.0, 1.0), hand_made(1.0, 1.0, 1.0), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_drawn(demo: Path, tmp_path: Path) -> None:
    for draw in (reports.gradient_picture, reports.score_picture):
        png = draw(demo, tmp_path / "pictures" / "one.png", group="adam").read_bytes()
        assert png.startswith(b"\x89PNG")
        assert int.from_bytes(png[16:20], "big") == 1800
        assert draw(demo / "sgd/plain/seed1", tmp_path / "single.png").is_file()
        with pytest.raises(ConfigError, match=r"no group 'lion'.*'sgd', 'adam'"):
            draw(demo, tmp_path / "x.png", group="lion")


def test_pictures_of_many_arms_show_the_main_outputs_and_the_first_candidate(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    names: list[str] = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: (names.append(k.get("label", "")), plot(self, *a, **k))[1])
    reports.score_picture(many, tmp_path / "accuracy.png")
    assert names == NINE
    titles: list[str] = []
    head = Axes.set_title
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **k: (titles.append(text), head(self, text, **k))[1])
    reports.gradient_picture(many, tmp_path / "gradients.png")
    assert titles[:2] == ["none (mean of 2 seeds)", "label-smoothing (mean of 2 seeds)"]
