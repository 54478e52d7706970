"""One palette: no colour stands anywhere else, and the plain arm has the same one wherever it is drawn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepsup import reports
from deepsup.reports import colours, figures, summary
from tests.support.synthetic_journals import make_demo
from tests.support.synthetic_maps import make_ablation

HERE = Path(reports.__file__).parent


def test_no_colour_stands_outside_the_palette() -> None:
    for file in [*HERE.rglob("*.py"), *HERE.rglob("*.j2")]:
        if file.name != "colours.py":
            assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgb|hsl)a?\(\s*\d", file.read_text()), file.name


def test_the_page_takes_its_variables_from_the_palette(tmp_path: Path) -> None:
    make_demo(tmp_path)
    page = reports.render(tmp_path)
    for name, colour in colours.CSS.items():
        assert f"--{name}: {colour};" in page
    used = set(re.findall(r"var\(--([a-z-]+)\)", page))
    assert used <= set(colours.CSS)


def test_the_baseline_has_one_colour_in_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_demo(tmp_path / "demo")
    found = summary.evidence(tmp_path / "demo")
    arms_of = {group["name"]: summary.baseline(group) for group in found.compare["groups"]}
    plain = next(name for name in arms_of.values() if name)
    drawn = figures.score(found.groups, baselines=arms_of)["data"]
    assert {t["line"]["color"] for t in drawn if t.get("name") == f"{plain}: main output"} == {colours.BASELINE}
    drawn = figures.profile(found.groups, baselines=arms_of, limits=figures.limits(found.groups))["data"]
    assert {t["line"]["color"] for t in drawn if t.get("name") == plain} == {colours.BASELINE}

    make_ablation(tmp_path / "ablation")
    from deepsup.reports import ablations

    figure = ablations.ablation(summary.evidence(tmp_path / "ablation").compare)
    assert figure is not None
    assert {t["marker"]["color"] for t in figure["data"] if t.get("name") == "baseline"} == {colours.BASELINE}

    from matplotlib.axes import Axes

    painted = {}
    plot = Axes.plot

    def noted(self: Axes, *args: object, **look: object) -> object:
        painted[str(look.get("label"))] = look.get("color")
        return plot(self, *args, **look)

    monkeypatch.setattr(Axes, "plot", noted)
    reports.score_picture(tmp_path / "demo", tmp_path / "scores.png")
    reports.ablation_picture(tmp_path / "ablation", tmp_path / "ablation.png")
    assert painted[f"{plain}: main output"] == painted["baseline"] == colours.BASELINE


def test_tints_and_blends() -> None:
    assert colours.tint("#000000", 0) == "#000000"
    assert colours.tint("#123456", 1) == colours.PAPER
    assert colours.depth_colours(1) == [colours.depth_colours(2)[0]]
    assert colours.clear("#d55e00", 0.1) == "rgba(213, 94, 0, 0.1)"
    many = [f"arm{i}" for i in range(30)]
    assert colours.BASELINE not in [c for a, c in colours.arm_colours(many, baseline="arm3").items() if a != "arm3"]
