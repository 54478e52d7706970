"""One palette: no colour stands anywhere else, and the plain arm has the same one wherever it is drawn."""

from __future__ import annotations

import re
from pathlib import Path

from deepsup import reports
from deepsup.reports import ablations, colours, contrasts, figures, summary
from tests.support.drawn_figures import colour, lines
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
    for name, code in colours.CSS.items():
        assert f"--{name}: {code};" in page
    used = set(re.findall(r"var\(--([a-z-]+)\)", page))
    assert used <= set(colours.CSS)


def test_the_baseline_has_one_colour_in_every_figure(tmp_path: Path) -> None:
    make_demo(tmp_path / "demo")
    found = summary.evidence(tmp_path / "demo")
    arms_of = {group["name"]: summary.baseline(group) for group in found.compare["groups"]}
    plain = next(name for name in arms_of.values() if name)
    told = found.compare["groups"]
    drawn = [
        (figures.score(found.groups, baselines=arms_of), f"{plain}: main output"),
        (figures.profile(found.groups, baselines=arms_of, limits=figures.limits(found.groups)), plain),
        (contrasts.by_depth(told), plain),
        (ablations.ablation(summary.evidence(make_ablation(tmp_path / "ablation")).compare), "baseline"),
    ]
    for sheet, name in drawn:
        assert sheet is not None
        assert {colour(lines(panel)[name]) for panel in sheet.panels} == {colours.BASELINE}


def test_tints_and_blends() -> None:
    assert colours.tint("#000000", 0) == "#000000"
    assert colours.tint("#123456", 1) == colours.PAPER
    assert colours.depth_colours(1) == [colours.depth_colours(2)[0]]


def test_no_other_arm_has_the_colour_of_the_baseline_and_a_dozen_can_be_told_apart() -> None:
    many = [f"arm{i}" for i in range(30)]
    looks = {arm: (tone, dash) for arm, tone, dash in colours.of_arms(many, baseline="arm3")}
    assert [arm for arm, (tone, _) in looks.items() if tone == colours.BASELINE] == ["arm3"]
    assert len({looks[arm] for arm in many[:12]}) == 12
    assert looks["arm3"][1] == looks["arm0"][1] == "-"
