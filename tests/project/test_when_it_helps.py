"""The page that says when deep supervision helps is made of the committed comparisons, and its text of nothing else."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

DOCS = Path(__file__).parents[2] / "docs"
made = SimpleNamespace(**runpy.run_path(str(DOCS / "make_when_it_helps.py")))


def test_the_table_is_that_of_the_committed_comparisons() -> None:
    found, page = list(made.rows()), made.PAGE.read_text("utf-8")
    assert made.render(page, found) == page
    assert made.PICTURE.stat().st_size > 10_000


def test_the_text_says_what_the_table_shows() -> None:
    by_arm = {(row.comparison, row.arm): row for row in made.rows()}
    verdicts = {key: row.verdict["verdict"] for key, row in by_arm.items()}
    assert [key for key, verdict in verdicts.items() if verdict != "no evidence"] == [
        ("digits-comparison", "sgd/supervised"),
        *(("identities-methods", arm) for arm in ("dsl", "dhm", "equal-compute")),
    ]
    search = {
        arm: round(100 * row.verdict["mean_difference"], 1) for (name, arm), row in by_arm.items() if "ident" in name
    }
    assert (search["dsl"], search["dhm"], round(search["equal-compute"])) == (4.2, 4.6, 17)
    overfit = {arm: 100 * row.verdict["mean_difference"] for (name, arm), row in by_arm.items() if "overfit" in name}
    assert [round(overfit[arm]) for arm in ("dks", "dhm", "dsl", "equal-compute")] == [2, 2, 0, 0]
    plain = by_arm["digits-comparison", "sgd/supervised"]
    assert (plain.normalised, plain.network) == ("none", "plain-12")
    best = max(
        (row for row in by_arm.values() if row.comparison.startswith("cifar")),
        key=lambda r: r.verdict["mean_difference"],
    )
    assert best.arm == "equal-compute"
    assert all(abs(row.verdict["mean_difference"]) < 0.005 for row in by_arm.values() if row.comparison == "drive-unet")
