"""One maker of an arm's record: the same for a finished comparison and one under way, on journals that the program wrote."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from deepsup.comparisons.arm_records import arm_record, images_of, outputs
from deepsup.reports import evidence
from deepsup.terms import INPUT
from deepsup.training import run_folders
from deepsup.training.records import Run
from deepsup.training.run_folders import found_run
from deepsup.training.runs import train
from tests.support.synthetic_journals import journal, write
from tests.support.tiny_runs import config

PEER = {"method": "dml", "at": [INPUT], "head": "network(name='deepsup:plain-3')"}
RUNS = ["all/dml/seed0", "all/dml/seed1"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of mutual learning as `compare` lays them out, without its compare.json."""
    folder = tmp_path_factory.mktemp("comparison")
    for seed, name in enumerate(RUNS):
        place = folder / name
        train(config(place, supervise=PEER, seed=seed), group="all", arm="dml")
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "runs")
    return tmp_path / "runs"


def state(folder: Path, **arm: Any) -> None:
    """A compare.json that says only which runs there are to be."""
    group = {"name": "all", "arms": {"dml": {"runs": RUNS, **arm}}}
    (folder / "compare.json").write_text(json.dumps({"format": 1, "name": "x", "groups": [group]}))


def shown(folder: Path) -> dict[str, Any]:
    """What the report takes for the arm."""
    return dict(evidence(folder).compare["groups"][0]["arms"]["dml"])


def journals(folder: Path) -> list[Run | None]:
    return [found_run(folder / name) for name in RUNS]


def cut(run: Path, *kinds: str) -> None:
    """Leave a journal as it was before it wrote the first record of one of these kinds."""
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] in kinds)
    (run / "journal.jsonl").write_text("".join(lines[:first]))


def test_a_peer_is_a_whole_network_in_result_and_report(folder: Path) -> None:
    runs = journals(folder)
    assert runs[0] is not None
    assert runs[0].plan is not None
    (branch,) = runs[0].plan["branches"]
    assert branch["layer"] == "<input>"  # what the program writes
    state(folder)
    for found in (arm_record(RUNS, runs), shown(folder)):
        assert {name: out["depth"] for name, out in found["outputs"].items() if name != "ensemble"} == {
            branch["name"]: 1.0, "main": 1.0,
        }  # fmt: skip
        assert all(math.isfinite(value) for out in found["outputs"].values() for value in out["final"])


@pytest.mark.parametrize("cuts", [(), ("end",), ("epoch",), ("step", "gradients")])
def test_the_report_and_the_result_say_the_same_of_finished_and_unfinished_runs(
    folder: Path, cuts: tuple[str, ...]
) -> None:
    if cuts:
        cut(folder / RUNS[1], *cuts)
    state(folder)
    record = arm_record(RUNS, journals(folder))
    assert json.loads(json.dumps(shown(folder))) == json.loads(json.dumps(record, allow_nan=False))
    assert (record["final"][1] is None) == bool(cuts)


def test_a_run_that_has_not_finished_counts_for_nothing_though_it_was_good(folder: Path) -> None:
    runs = journals(folder)
    assert runs[1] is not None
    good = [dataclasses.replace(epoch, score={"main": 0.95}) for epoch in runs[1].epochs]
    ended = dataclasses.replace(runs[1], epochs=tuple(good))
    assert arm_record(RUNS, [runs[0], ended])["epochs_to_90"][1] == 1
    under_way = dataclasses.replace(ended, end=None)
    record = arm_record(RUNS, [runs[0], under_way])
    for key in ("final", "epochs_to_90", "epochs", "seconds", "step_ms"):
        assert record[key][1] is None, key
    assert record["outputs"]["main"]["final"][1] is None
    assert record["mean"] == record["final"][0]


def test_costs_are_those_of_the_dearest_run_wherever_it_stands(folder: Path) -> None:
    cheap, dear = journals(folder)
    assert cheap is not None
    assert dear is not None
    cost = {key: 10 * value for key, value in dear.cost.items()}
    record = arm_record(RUNS, [cheap, dataclasses.replace(dear, cost=cost)])
    assert record["train_flops"] == cost["trunk_flops"] + cost["head_flops"]
    assert record["train_params"] == cost["trunk_params"] + cost["head_params"]
    assert arm_record(RUNS, [None, None])["train_flops"] is None


def test_what_the_file_states_is_left_alone(folder: Path) -> None:
    state(folder, mean=0.5, seconds=None)
    found = shown(folder)
    assert found["mean"] == 0.5
    assert found["seconds"] == arm_record(RUNS, journals(folder))["seconds"]


def test_two_views_are_two_passes_also_before_anything_ran() -> None:
    assert arm_record(RUNS, [None, None])["passes"] == 1
    assert arm_record(RUNS, [None, None], data={"views": 2})["passes"] == 2
    assert arm_record(RUNS, [None, None], data={"overlap": True})["passes"] == 2


def test_runs_without_an_end_and_whole_peers_have_their_place(tmp_path: Path) -> None:
    run = run_folders.run(write(tmp_path, journal("sgd", "supervised", 0)))
    assert run.plan is not None
    peers = [{"name": "peer", "layer": "<input>", "depth": 0.0}, {"name": "conv3", "layer": "conv3", "depth": 0.25}]
    epoch = dataclasses.replace(run.epochs[-1], score={"main": 0.5, "peer": 0.6, "conv3": 0.4, "ensemble": 0.7})
    peered = dataclasses.replace(run, plan={"branches": peers}, epochs=(epoch,))
    found = outputs([peered, None])
    assert {name: output["depth"] for name, output in found.items()} == {
        "conv3": 0.25, "peer": 1.0, "main": 1.0, "ensemble": None,
    }  # fmt: skip
    assert found["peer"]["final"] == [0.6, None]


def test_the_images_behind_a_score_are_those_of_the_journal_or_the_fewest_that_explain_it(folder: Path) -> None:
    run = journals(folder)[0]
    assert run is not None
    start = json.loads((folder / RUNS[0] / "journal.jsonl").read_text().splitlines()[0])
    assert images_of([run]) == run.images == start["images"]
    older = dataclasses.replace(run, images=None)

    def scored(*scores: float) -> Run:
        return dataclasses.replace(
            older, epochs=[dataclasses.replace(run.epochs[0], score={"main": s}) for s in scores]
        )

    assert images_of([scored(0.568, 0.596), scored(0.5835)]) == 2000
    assert images_of([scored(345 / 360, 31 / 360, 30 / 360)]) == 360
    assert images_of([scored(0.123456789123, 0.5)]) is None  # no share of any set that is not huge
    assert images_of([scored(1 / 99991, 1 / 99989)]) is None
    assert images_of([scored(1.0, math.nan)]) is None
    assert images_of([]) is None
    assert images_of([dataclasses.replace(run, metric="mean IoU")]) is None


def test_a_run_that_gave_up_has_diverged_and_one_that_was_stopped_is_missing(folder: Path) -> None:
    first, second = journals(folder)
    assert first is not None
    assert second is not None
    lost = dataclasses.replace(first, end=None, stop="the loss is nan")
    record = arm_record(RUNS, [lost, dataclasses.replace(second, end=None)])
    assert record["diverged"] == [RUNS[0]]
    assert record["final"] == [None, None]
    assert arm_record(RUNS, [first, None])["diverged"] == []


def test_the_first_rank_of_a_search_is_kept_by_run(written: Path) -> None:
    runs = journals(written)
    assert "rank_1" not in arm_record(RUNS, runs)
    searched = []
    for run, share in zip(runs, (0.5, 0.25), strict=True):
        assert run
        last = dataclasses.replace(run.epochs[-1], scores={"main": {"mAP": 0.1, "rank-1": share}})
        searched.append(dataclasses.replace(run, epochs=(*run.epochs[:-1], last)))
    assert arm_record(RUNS, searched)["rank_1"] == [0.5, 0.25]
    assert arm_record(RUNS, [searched[0], None])["rank_1"] == [0.5, None]
