"""All metrics of label maps as tables of arms and of outputs."""

from __future__ import annotations

import json
from pathlib import Path

from deepsup import reports
from deepsup.reports import metric_tables
from deepsup.training import run_folders
from tests.support.shown_reports import Page
from tests.support.synthetic_maps import CLASSES, journal


def test_all_scores_are_a_table_of_arms(streets: Path) -> None:
    (table,) = metric_tables.score_tables(reports.evidence(streets))
    assert (table.title, table.heads) == ("camvid", ("0", "0.1", "0.2", "0.4", "0.7", "1"))
    assert [row[0] for row in table.rows] == ["mean IoU", "pixel accuracy", "mean Dice"]
    assert [row[0] for row in table.classes] == [f"IoU: {name}" for name in CLASSES]
    ends = [
        run_folders.run(streets / f"camvid/0.7/seed{seed}").epochs[-1].scores["main"]["mean Dice"] for seed in (0, 1)
    ]
    mean, spread = sum(ends) / 2, abs(ends[0] - ends[1]) / 2**0.5
    assert table.rows[2][5] == f"{100 * mean:.2f} ± {100 * spread:.2f}"
    assert ["mean Dice", *table.rows[2][1:]] in Page(reports.render(streets)).rows


def test_all_scores_of_one_run_are_a_table_of_outputs_with_the_confusion_matrix(vessels: Path) -> None:
    (table,) = metric_tables.score_tables(reports.evidence(vessels / "camvid/0.4/seed0"))
    assert table.heads == ("layer3", "main", "ensemble")
    by_name = {row[0]: row[1:] for row in table.rows}
    assert next(iter(by_name)) == "ROC-AUC"
    assert by_name["threshold"] == ("0.5",) * 3
    assert by_name["true negatives, pixels"] == ("3,895,256",) * 3
    assert by_name["false positives, pixels"] == ("65,238",) * 3
    assert by_name["false negatives, pixels"] == ("134,513",) * 3
    assert by_name["true positives, pixels"] == ("443,136",) * 3
    assert [row[0] for row in table.classes] == ["IoU: background", "IoU: vessel"]


def test_scores_that_nothing_was_counted_for_are_dashes(tmp_path: Path) -> None:
    records = journal("a", 0, weight=0.4, metric="mean IoU")
    records[-2]["validation"] |= {
        "scores": {"main": {"mean IoU": 0.5, "mean Dice": None}},
        "iou": {"main": [None, 0.25]},
    }
    records[-2]["validation"]["confusion"] = {"main": [[1, 2, 3]] * 3}
    (tmp_path / "journal.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    (table,) = metric_tables.score_tables(reports.evidence(tmp_path))
    assert table.rows == (("mean IoU", "50.00"), ("mean Dice", "–"))  # noqa: RUF001
    assert table.classes == (("IoU: 0", "–"), ("IoU: 1", "25.00"))  # noqa: RUF001 - no maps, so no names
