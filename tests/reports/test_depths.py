"""How good each output is, by where it lies."""

from __future__ import annotations

import statistics
from pathlib import Path

from deepsup import reports
from deepsup.reports import depths
from tests.support.shown_reports import group_of
from tests.support.synthetic_journals import BRANCHES, LAYERS


def test_outputs_are_scored_by_depth_and_by_seed(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]["supervised"]
    arm = group_of(demo)["arms"]["supervised"]
    assert list(arm["outputs"]) == [*BRANCHES, "main", "ensemble"]
    for name, output in arm["outputs"].items():
        assert output["final"] == [run.epochs[-1].score[name] for run in members]
    depth = {name: int(name[4:]) / len(LAYERS) for name in BRANCHES} | {"main": 1.0, "ensemble": None}
    assert {n: o["depth"] and round(o["depth"], 3) for n, o in arm["outputs"].items()} == {
        n: d and round(d, 3) for n, d in depth.items()
    }
    first = depths.of(arm)[0]
    values = arm["outputs"]["conv3"]["final"]
    assert (first.name, first.mean, first.low, first.high) == (
        "conv3",
        statistics.fmean(values),
        min(values),
        max(values),
    )
    assert [o.name for o in depths.branches(arm)] == list(BRANCHES)
    assert depths.ensemble(arm) == depths.of(arm)[-1]
    plain = group_of(demo)["arms"]["plain"]
    assert (depths.branches(plain), depths.ensemble(plain)) == ([], None)


def test_outputs_come_in_the_order_of_their_depth() -> None:
    plan = {"branches": [{"name": "late", "depth": 0.8}, {"name": "early", "depth": 0.2}]}
    assert depths.in_order(["ensemble", "main", "late", "early", "unheard of"], plan) == [
        *("early", "late", "unheard of", "main", "ensemble"),
    ]
    assert depths.in_order(["main", "a"], None) == ["a", "main"]
