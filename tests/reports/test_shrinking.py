"""The looks of a comparison that adds seeds, for terminal and page."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from deepsup import reports
from deepsup.reports import shrinking
from tests.support.shown_reports import Page, group_of


def history(*ends: tuple[float | None, float | None]) -> list[dict[str, float | None]]:
    return [
        {"seeds": 3 + i, "mean_difference": 0.02, "ci_low": low, "ci_high": high} for i, (low, high) in enumerate(ends)
    ]


def test_a_row_a_look_and_a_column_an_arm() -> None:
    verdicts = {
        "aux": {"verdict": "helps", "looks": history((None, None), (-0.01, 0.05), (0.01, 0.03))},
        "dsl": {"verdict": "no evidence", "looks": history((-0.01, 0.05))},
        "old": {"verdict": "helps"},
    }
    compare = {"groups": [{"name": "g", "arms": {}, "verdicts": verdicts}]}
    assert shrinking.looks(compare) == shrinking.LookTable(
        ("seeds", "aux", "dsl"),
        (
            ("3", "+2.0", "+2.0 (−1.0 to +5.0)"),  # noqa: RUF001
            ("4", "+2.0 (−1.0 to +5.0)", ""),  # noqa: RUF001
            ("5", "+2.0 (+1.0 to +3.0)", ""),
        ),
    )
    shown = Console(file=io.StringIO(), width=100)
    shown.print(reports.look_table(compare))
    assert "+2.0 (+1.0 to +3.0)" in shown.file.getvalue()  # type: ignore[attr-defined]
    two = shrinking.looks({"groups": [*compare["groups"], {"name": "h", "arms": {}, "verdicts": verdicts}]})
    assert two is not None
    assert two.heads == ("seeds", "g/aux", "g/dsl", "h/aux", "h/dsl")


def test_without_looks_there_is_no_table(demo: Path) -> None:
    assert shrinking.looks({"groups": [group_of(demo)]}) is None
    assert reports.look_table({"groups": [group_of(demo)]}) is None
    assert "Seeds were added one by one" not in Page(reports.render(demo)).text


def test_the_page_shows_them_and_what_could_be_seen(many: Path, tmp_path: Path) -> None:
    compare = json.loads((many / "compare.json").read_text())
    compare["groups"][0]["verdicts"]["aux"]["looks"] = history((-0.01, 0.05), (0.01, 0.03))
    (tmp_path / "compare.json").write_text(json.dumps(compare | {"detectable": {"says": "It sees two points."}}))
    text = Page(reports.render(tmp_path)).text
    assert "Seeds were added one by one" in text
    assert "+2.0 (+1.0 to +3.0)" in text
    assert "It sees two points." in text
