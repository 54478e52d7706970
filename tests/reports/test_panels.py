"""Sheets: panels that go on below where there is no room, legends, and SVG that a page can hold."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deepsup.reports import panels
from deepsup.reports.curves import Curve
from deepsup.reports.panels import NARROW, WIDE, Sheet
from tests.support.drawn_figures import legend, texts

SHARES = Curve((1, 2, 3), (0.9625, 0.965, 0.97), (0.96, 0.96, 0.97), (0.9675, 0.97, 0.97))


def drawn(*names: str, width: int = WIDE, titles: tuple[str, ...] = ("one",)) -> Sheet:
    sheet = Sheet(list(titles), [200], width)
    for panel in sheet.panels:
        for name in names:
            panels.mean(panel, SHARES, name=name, colour=panels.INK, shade=0.2)
    panels.shares(sheet.panels[0].yaxis)
    sheet.labels(x="epoch", y="score")
    return sheet.laid_out()


def test_more_panels_than_fit_go_on_below() -> None:
    sheet = drawn("a", titles=("1", "2", "3", "4"))
    places = [panel.get_position() for panel in sheet.panels]
    assert places[0].x0 == places[2].x0 < places[1].x0 == places[3].x0
    assert places[0].y0 == places[1].y0 > places[2].y1 > places[2].y0 == places[3].y0
    assert places[0].x1 < places[1].x0
    assert [panel.get_ylabel() for panel in sheet.panels] == ["score", "", "score", ""]
    assert {panel.get_ylim() for panel in sheet.panels} == {sheet.panels[0].get_ylim()}  # one scale


def test_rows_stand_below_each_other_in_the_heights_asked_for() -> None:
    sheet = Sheet(["a", "b"], [100, 50], WIDE)
    sheet.labels(x="x", y=["up", "down"])
    sheet.laid_out()
    tall = 72 * sheet.figure.get_size_inches()[1]
    assert [round(panel.get_position().height * tall) for panel in sheet.panels] == [100, 50, 100, 50]
    assert [panel.get_xlabel() for panel in sheet.panels] == ["", "x", "", "x"]
    assert [panel.get_ylabel() for panel in sheet.panels] == ["up", "down", "", ""]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_leaves_the_sheet(width: int) -> None:
    names = [f"a long name of an arm {i}" for i in range(9)]
    sheet = drawn(
        *names, "_private", width=width, titles=("a title that is far too long for its panel, and for any other", "b")
    )
    sheet.figure.set_dpi(72)
    sheet.figure.draw_without_rendering()
    assert legend(sheet) == [*names, "\u2060_private"]
    tall = 72 * sheet.figure.get_size_inches()[1]
    for box in (sheet.figure.legends[0].get_window_extent(), *(p.get_tightbbox() for p in sheet.panels)):
        assert -1 <= box.x0 < box.x1 <= width + 1
        assert -1 <= box.y0 < box.y1 <= tall + 1
    assert sheet.figure.legends[0].get_window_extent().y0 >= sheet.panels[0].get_tightbbox().y1 - 8


def test_shares_are_written_in_percent_as_short_as_they_can_be() -> None:
    axis = drawn("a").panels[0].yaxis
    written = [axis.get_major_formatter()(value, 0) for value in (0, 0.2, 0.965, 0.9625, 1)]
    assert written == ["0 %", "20 %", "96.5 %", "96.25 %", "100 %"]


def test_the_drawing_stands_in_a_page_twice_once_for_each_screen() -> None:
    svg, caption = panels.inline(partial(drawn, "$5 & <b>'1'</b>_2", titles=("a</text><script>",)), "score-0")
    assert caption == ""
    wide, narrow = re.findall(r"<svg.*?</svg>", svg, re.DOTALL)
    assert wide.startswith(f'<svg class="wide" viewBox="0 0 {WIDE} ')
    assert narrow.startswith(f'<svg class="narrow" viewBox="0 0 {NARROW} ')
    for one in (wide, narrow):
        tree = ElementTree.fromstring(one.replace("xlink:href", "href"))
        said = [text.text for text in tree.iter("text")]
        assert {"$5 & <b>'1'</b>_2", "a</text><script>", "epoch", "score"} <= set(said)
        assert not re.search(r"https?:|<script|<style|<metadata", one)
    assert not set(re.findall(r'id="([^"]*)"', wide)) & set(re.findall(r'id="([^"]*)"', narrow))
    for one in (wide, narrow):
        names = set(re.findall(r'id="([^"]*)"', one))
        assert set(re.findall(r"#([a-zA-Z]\w{9,})", one)) <= names
    assert "epoch" in texts(svg)


def test_the_same_drawing_has_the_same_bytes(tmp_path: Path) -> None:
    one, again = (panels.inline(partial(drawn, "a"), "score-0") for _ in range(2))
    assert one == again
    assert panels.inline(lambda width: None, "score-0") == ("", "")
    one, again = (panels.save(partial(drawn, "a"), tmp_path / name).read_bytes() for name in ("a.png", "b/c.png"))
    assert one == again
    assert int.from_bytes(one[16:20], "big") == 2 * WIDE


def test_a_curve_of_one_run_has_no_shade_and_one_point_is_a_dot() -> None:
    panel = Sheet(["a"], [100], WIDE).panels[0]
    panels.mean(panel, Curve((1, 2), (0.1, 0.2), (0.1, 0.2), (0.1, 0.2)), colour=panels.INK, shade=0.2)
    panels.mean(panel, Curve((1,), (0.1,), (0.0,), (0.2,)), colour=panels.INK, shade=0.2)
    assert len(panel.collections) == 0
    assert [line.get_marker() for line in panel.lines] == ["None", "o"]


def test_of_many_layers_some_are_named() -> None:
    assert panels.some(3) == [0, 1, 2]
    assert panels.some(100, most=4) == [0, 33, 66, 99]
    assert panels.some(1) == [0]
    panel = Sheet(["a"], [100], WIDE).panels[0]
    panels.by_layer(panel, [f"features.block{i}.conv" for i in range(100)], room=300)
    names = [label.get_text() for label in panel.get_xticklabels()]
    assert len(names) == 20
    assert names[0] == "…block0.conv"
