"""The picture of two probes, without and with branches. Pictures of journals are tested with the reports."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest

from deepsup import reports
from deepsup.errors import ConfigError
from deepsup.probes import Probe
from deepsup.reports import figures, panels
from tests.support.probing import hand_made


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
    for kind in ("gradients", "scores"):
        png = reports.picture(kind, demo, tmp_path / "pictures" / "one.png", group="adam").read_bytes()
        assert png.startswith(b"\x89PNG")
        assert int.from_bytes(png[16:20], "big") == 1800
        assert reports.picture(kind, demo / "sgd/plain/seed1", tmp_path / "single.png").is_file()
        with pytest.raises(ConfigError, match=r"no group 'lion'.*'sgd', 'adam'"):
            reports.picture(kind, demo, tmp_path / "x.png", group="lion")


def test_a_picture_of_gradients_sets_the_first_candidate_against_the_baseline(many: Path, tmp_path: Path) -> None:
    runs = reports.evidence(many).groups["all"]
    pair = {arm: runs[arm] for arm in ("none", "label-smoothing")}
    limits = figures.limits({"": pair})
    same = panels.save(partial(figures.gradients, pair, limits=limits), tmp_path / "same.png").read_bytes()
    assert reports.picture("gradients", many, tmp_path / "gradients.png").read_bytes() == same


def test_a_picture_of_scores_is_the_figure_of_the_page(many: Path, tmp_path: Path) -> None:
    groups = reports.evidence(many).groups
    same = panels.save(partial(figures.score, groups, baselines={"all": "none"}), tmp_path / "same.png").read_bytes()
    assert reports.picture("scores", many, tmp_path / "scores.png").read_bytes() == same


def test_an_unknown_picture_is_refused(many: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no picture of 'losses'\. Choose: gradients, scores, ablation"):
        reports.picture("losses", many, tmp_path / "x.png")
