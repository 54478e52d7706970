"""Tables and sentences of the terminal, letter by letter, and how many decimals they have."""

from __future__ import annotations

import re
from pathlib import Path

from deepsup import reports
from deepsup.reports import columns, text_tables
from deepsup.reports.summary import judged
from deepsup.training import run_folders
from tests.support.shown_reports import Page, group_of, shown
from tests.support.synthetic_journals import COMPARISON, NINE

TABLE = """
                       epochs  train  train  train infer
 arm      accuracy %  to 90 %   time params  FLOPs  time
 ───────────────────────────────────────────────────────
 sgd
 plain    11.0 ± 1.7    never 14.0 s  213 k 3.94 M  1.0x
 aux[1]   96.0 ± 1.0 5, 6, 11 17.0 s 1.25 M 4.01 G  1.0x

 adam
 plain             –        –      –      –      –     –
 0/1 runs
 aux[1]            –        –      –      –      –     –
"""  # noqa: RUF001


RUN_TABLE = """sgd/supervised/seed0

 state                     finished, 12 epochs
 accuracy                  97.1 %, best 97.1 %
 accuracy of branches, %   conv3 77.6, conv6 83.5, conv9 89.3
 ensemble, %               98.0
 epochs to 90 %            5
 steps in conflict, %      conv3 59, conv6 4, conv9 0 (of 480 measured)
 training time             14.2 s, 24.5 ms per step
 parameters                213 k + 34.6 k in branches while training
 FLOPs per sample          3.94 M + 69.1 k in branches while training
 memory of a step          2.9 MiB kept for the backward pass
"""


def test_comparison_table_is_golden() -> None:
    assert shown(reports.comparison_table(COMPARISON)) == TABLE
    assert reports.inference_line(COMPARISON) == "inference, every arm: 213 k parameters, 3.94 M FLOPs a sample"


def test_run_table_is_golden(demo: Path) -> None:
    assert shown(reports.run_table(run_folders.run(demo / "sgd/supervised/seed0"))) == RUN_TABLE


def test_verdicts_are_sentences() -> None:
    assert reports.verdict_lines(COMPARISON) == [
        "sgd: helps. aux[1] minus plain: +85.0 points of accuracy (95 % interval +82.0 to +88.0, n = 3 paired seeds)",
        "adam: no verdict yet. runs finished: plain 0 of 1, aux[1] 0 of 0",
    ]
    one = {
        "verdict": "no evidence",
        "mean_difference": -0.01,
        "ci_low": None,
        "ci_high": None,
        "n": 1,
        "reason": "add seeds",
    }
    group = {"name": "", "arms": {}, "verdict": one}
    line = "no evidence. candidate minus baseline: −1.0 points of accuracy (n = 1 paired seed: add seeds)"  # noqa: RUF001
    assert reports.verdict_lines({"groups": [group]}) == [line]
    none = one | {"mean_difference": None, "n": 0, "reason": "no pair of runs has finished"}
    assert reports.verdict_lines({"groups": [group | {"verdict": none}]}) == [
        "no evidence. no pair of runs has finished"
    ]


DEPTHS = """
 accuracy %
 at depth         23 %  46 %  69 %  main  ensemble
 ─────────────────────────────────────────────────
 none                                4.0
 label-smoothing                     4.4
 aux              38.9  41.8  44.8  48.7      49.1
"""


VERDICTS = """
 minus none       points  95 % interval  seeds  verdict
 ──────────────────────────────────────────────────────────
 label-smoothing    +0.2   −0.8 to +3.2      2  no evidence
 aux                +3.0                     1  helps
"""  # noqa: RUF001


def test_what_the_terminal_shows_of_many_arms_is_golden(many: Path) -> None:
    group = group_of(many)
    three = {"groups": [group | {"arms": {arm: group["arms"][arm] for arm in NINE[:3]}}]}
    assert shown(reports.depth_table(three)) == DEPTHS
    alone = {"verdict": "helps", "mean_difference": 0.03, "n": 1, "confidence": 0.95, "baseline": "none"}
    verdict = judged(group)["label-smoothing"] | {"mean_difference": 0.002, "ci_low": -0.008, "ci_high": 0.032}
    table = text_tables.verdict_table({"groups": [group | {"verdicts": {"label-smoothing": verdict, "aux": alone}}]})
    assert shown(table) == VERDICTS


def test_branches_at_many_depths_are_listed_in_a_cell() -> None:
    outputs = {f"layer{i}": {"depth": i / 10, "final": [i / 10]} for i in range(1, 9)} | {
        "main": {"depth": 1.0, "final": [0.9]}
    }
    compare = {"groups": [{"name": "g", "arms": {"aux": {"outputs": outputs}, "plain": {}}}]}
    text = " ".join(shown(reports.depth_table(compare), width=120).split())
    assert "aux 10 %: 10.0, 20 %: 20.0," in text
    assert text.endswith("80 %: 80.0 90.0 plain")
    assert "ensemble" not in text
    assert (
        reports.depth_table({"groups": [{"name": "g", "arms": {"plain": {"outputs": {"main": outputs["main"]}}}}]})
        is None
    )


def test_scores_of_maps_have_two_decimals_everywhere(streets: Path) -> None:
    compare = reports.evidence(streets).compare
    arm = compare["groups"][0]["arms"]["0.4"]
    row = next(row.cells for row in columns.rows(compare) if row.arm == "0.4")
    assert row["score"] == f"{100 * arm['mean']:.2f} ± {100 * arm['std']:.2f}"
    assert re.fullmatch(r"\+\d\.\d\d", row["difference"])
    assert re.fullmatch(r"[+−]\d\.\d\d to \+\d\.\d\d", row["interval"])  # noqa: RUF001
    run = streets / "camvid/0.4/seed0"
    facts = dict(text_tables.run_facts(run_folders.run(run)))
    assert re.fullmatch(r"\d\d\.\d\d %, best \d\d\.\d\d %", facts["mean IoU"])
    assert re.fullmatch(r"layer3 \d\d\.\d\d", facts["mean IoU of branches, %"])
    assert "epochs to 90 %" not in facts
    assert re.search(r"Finished, 8 epochs\. Mean IoU \d\d\.\d\d %\.", Page(reports.render(run)).text)
