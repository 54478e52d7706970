"""One table of columns: terminal and page show what it has, and a new column is one function."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepsup import reports
from deepsup.reports import columns, formats
from tests.support.shown_reports import Page, group_of, shown


@pytest.fixture
def best() -> Iterator[None]:
    """A column that somebody else wrote."""

    @columns.column("training", "best of all", "best\nof all")
    def best(arm: columns.Arm) -> str:
        return formats.percent(max(arm.fields["final"]))

    yield
    del columns.COLUMNS["best"]


@pytest.mark.usefixtures("best")
def test_a_new_column_is_one_function_for_terminal_and_page(demo: Path) -> None:
    arms = group_of(demo)["arms"]
    table = shown(reports.comparison_table(reports.evidence(demo).compare), width=140)
    page = " ".join(Page(reports.render(demo)).text.split())
    assert "of all" in table
    assert "best of all" in page
    for arm in arms.values():
        told = formats.percent(max(arm["final"]))
        assert told in table
        assert told in page


def test_a_column_that_says_nothing_is_not_on_the_page(demo: Path) -> None:
    compare = reports.evidence(demo).compare
    costs = columns.page_table(compare, *columns.COSTS)
    assert "peak" not in costs.names  # nobody had a GPU
    assert dict(costs.spans) == {"training": len(costs.names) - 3, "inference": 3}
    assert len(costs.heads) == len(costs.names) == len(costs.rows[0][1])
    alone = {"groups": [group_of(demo) | {"arms": {"plain": group_of(demo)["arms"]["plain"]}, "verdicts": {}}]}
    assert not {"difference", "interval"} & set(columns.page_table(alone, columns.RESULTS).names)


def test_epochs_to_a_goal_that_nobody_reached_are_told_of_accuracy_alone(demo: Path) -> None:
    arm = group_of(demo)["arms"]["plain"] | {"epochs_to_90": [None] * 3}
    compare = {"groups": [{"name": "g", "arms": {"plain": arm}}]}
    assert "epochs" in columns.page_table(compare, columns.RESULTS).names
    assert "epochs" not in columns.page_table({**compare, "metric": "mean IoU"}, columns.RESULTS).names


def test_the_ledger_sets_every_arm_against_the_baseline(demo: Path) -> None:
    group = group_of(demo)
    longer = group["arms"]["supervised"] | {"epochs": [24, 24, 18], "peak_bytes": 3 * 2**30}
    plain, supervised = (
        row.cells
        for row in columns.rows({"groups": [group | {"arms": {"plain": group["arms"]["plain"], "supervised": longer}}]})
    )
    assert (
        plain["compute"],
        plain["trained"],
        plain["saved"],
        plain["peak"],
        plain["difference"],
    ) == (
        "1.0x",
        "12",
        "1.9 MiB",
        formats.NONE,
        "",
    )
    factor = (3_940_000 + 69_120) / 3_940_000 * 22 / 12
    assert supervised["compute"] == f"{factor:.1f}x" == "1.9x"
    assert (supervised["trained"], supervised["saved"], supervised["peak"]) == (
        "18 to 24",
        "2.9 MiB",
        "3.0 GiB",
    )
    assert supervised["step"] == "24.5 ms"
    twice = {"groups": [group | {"arms": {"plain": group["arms"]["plain"], "supervised": longer | {"passes": 2}}}]}
    assert columns.rows(twice)[1].cells["compute"] == f"{2 * factor:.1f}x"  # every image went through the network twice
    assert (supervised["inference_params"], supervised["inference_flops"]) == (
        plain["inference_params"],
        plain["inference_flops"],
    )
    assert (
        reports.inference_line({"groups": [group]}) == "inference, every arm: 213 k parameters, 3.94 M FLOPs a sample"
    )
    longer["inference_flops"] = 4e6
    other = {"groups": [group | {"arms": {"plain": group["arms"]["plain"], "supervised": longer}}]}
    assert reports.inference_line(other) is None
    assert "4.00 M" in shown(reports.comparison_table(other), width=120)  # a method that changes inference is seen


def test_a_search_has_its_first_rank_beside_its_score_unless_that_is_its_score(demo: Path) -> None:
    group = group_of(demo)
    arms = {name: arm | {"rank_1": [0.5, 0.75, None]} for name, arm in group["arms"].items()}
    compare = {"metric": "mAP", "groups": [group | {"arms": arms}]}
    rows = columns.page_table(compare, columns.RESULTS)
    assert "rank_1" in rows.names
    assert {row.cells["rank_1"] for row, _ in rows.rows} == {"62.50"}
    assert "rank-1 %" in columns.terminal_columns(columns.rows(compare), "mAP", same_said=True).values()
    assert "rank_1" not in columns.page_table({**compare, "metric": "rank-1"}, columns.RESULTS).names
    assert "rank_1" not in columns.page_table(reports.evidence(demo).compare, columns.RESULTS).names
