"""Runs of a comparison: in which order, when they are stopped, when they fail, and what is refused before any starts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from deepsup.comparisons import compare as comparisons
from deepsup.comparisons import results
from deepsup.comparisons.compare import compare
from deepsup.comparisons.detectable import lacking
from deepsup.comparisons.statistics import compared
from deepsup.errors import ConfigError, DeepsupError
from deepsup.settings import configs
from deepsup.settings.comparison import Cell, ComparisonConfig
from deepsup.training import checkpoints, prepare, runs
from deepsup.training.journal import read
from deepsup.training.runs import train
from tests.support.tiny_comparisons import Finished, config, pretending, several
from tests.support.tiny_runs import SUPERVISED, settings

pytestmark = pytest.mark.usefixtures("warm_workers")


def test_the_rule_is_on_the_disk_before_anything_runs(finished: Finished):
    assert "aux minus plain" in finished.before["rule"]
    assert finished.before["complete"] is False
    assert finished.before["rule"] == finished.result["rule"]
    assert finished.before["created"] == finished.result["created"]
    assert finished.before["groups"][0] == {
        "name": "adam",
        "baseline": "plain",
        "arms": {
            "plain": {"runs": ["adam/plain/seed0", "adam/plain/seed1"]},
            "aux": {"runs": ["adam/aux/seed0", "adam/aux/seed1"]},
        },
    }


def test_events_tell_of_every_run(finished: Finished):
    kinds = [e["kind"] for e in finished.events]
    assert kinds[0] == "rule"
    assert kinds.count("done") == kinds.count("start") == kinds.count("end") == 8
    runs = {c.run for c in finished.config.expand()}
    assert {e["run"] for e in finished.events[1:]} == runs
    assert not [p.name for p in finished.folder.iterdir() if p.name.startswith(".")]


def test_a_finished_comparison_is_left_alone(finished: Finished):
    before = (finished.folder / "compare.json").read_bytes()
    events: list[dict[str, Any]] = []
    assert compare(finished.config, on_event=events.append) == finished.result
    assert [e["kind"] for e in events] == ["rule"]
    assert len(events[0]["finished"]) == 8
    assert (finished.folder / "compare.json").read_bytes() == before


def test_another_comparison_in_the_same_folder_is_refused(finished: Finished):
    with pytest.raises(ConfigError, match="seeds was \\[0, 1\\], now \\[0, 1, 2\\]"):
        compare(config(finished.folder, seeds=[0, 1, 2]))
    single = config(finished.folder).expand()[0].config.model_copy(update={"output": str(finished.folder)})
    with pytest.raises(ConfigError, match="holds a comparison"):
        train(single)
    assert compare(config(finished.folder, jobs=1)) == finished.result  # how many at a time changes no result


def test_an_interrupted_comparison_goes_on_and_ends_the_same(finished: Finished, tmp_path: Path):
    def interrupt(event: dict[str, Any]) -> None:
        if event["kind"] == "done":
            raise KeyboardInterrupt

    half = config(tmp_path, jobs=1).model_copy(update={"groups": {"adam": {}}})
    with pytest.raises(KeyboardInterrupt):
        compare(half, on_event=interrupt)
    assert json.loads((tmp_path / "compare.json").read_text())["complete"] is False
    events: list[dict[str, Any]] = []
    result = compare(half, on_event=events.append)
    assert events[0]["finished"]
    assert "run" in events[1]
    arms = ("plain", "aux")
    expected = finished.result["groups"][0]
    assert [result["groups"][0]["arms"][a]["final"] for a in arms] == [expected["arms"][a]["final"] for a in arms]
    for run in ("adam/plain/seed1", "adam/aux/seed1"):
        weights = [(folder / run / "model.safetensors").read_bytes() for folder in (tmp_path, finished.folder)]
        assert weights[0] == weights[1]


def test_the_run_that_is_under_way_when_a_comparison_is_stopped_writes_a_checkpoint(tmp_path: Path):
    def interrupt(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 8:
            raise KeyboardInterrupt

    longer = config(tmp_path, jobs=1, base={"epochs": 40}).model_copy(update={"groups": {"adam": {}}})
    with pytest.raises(KeyboardInterrupt):
        compare(longer, on_event=interrupt)
    steps = checkpoints.load(tmp_path / "adam/plain/seed0/checkpoint.ckpt").step
    assert steps >= 8
    assert steps % 10  # in the middle of an epoch: not one of the checkpoints that each ends with
    assert not list(tmp_path.glob(".worker*"))


def test_many_arms_run_seed_by_seed_and_stop_between_seeds_when_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(results, "TIMING_SECONDS", 0.05)
    events: list[dict[str, Any]] = []
    half = compare(several(tmp_path, minutes=1e-9), on_event=events.append)
    arms = ["none", "aux", "smooth", "compute", "wide"]
    assert {e["run"] for e in events[1:]} == {f"all/{arm}/seed0" for arm in arms}
    assert half["complete"] is False
    assert half["missing"] == [f"all/{arm}/seed1" for arm in arms]
    (group,) = half["groups"]
    assert list(group["arms"]) == arms
    assert {arm: v["n"] for arm, v in group["verdicts"].items()} == dict.fromkeys(arms[1:], 1)
    assert "each of aux, smooth, compute and wide minus none" in half["rule"]
    assert "4 comparisons; the clearest is judged by an interval of 98.75 %" in half["rule"]
    assert half["rule"].endswith("for as many epochs; compute trains as many as cost the arithmetic of aux.")

    whole = compare(several(tmp_path, correction="holm"))  # no limit of time now, and the same comparison
    assert (whole["complete"], whole["missing"], whole["rule"]) == (True, [], half["rule"])
    (group,) = whole["groups"]
    none = group["arms"]["none"]
    for arm, found in group["verdicts"].items():
        own = group["arms"][arm]
        apart = compared(none["final"], own["final"], images=own["images"], variance=own["image_variance"][-1])
        lacks = lacking(apart, apart.verdict(found["confidence"]), found["confidence"], names=("none", arm))
        expected = apart.verdict(found["confidence"])._asdict() | lacks
        assert found == {**expected, "baseline": "none", "candidate": arm}
    assert min(found["confidence"] for found in group["verdicts"].values()) <= 0.9875
    assert [c["run"] for c in whole["certificates"]] == ["all/aux/seed0", "all/aux/seed1"]
    costs = {arm: fields["train_flops"] for arm, fields in group["arms"].items()}
    announced = {e["run"].split("/")[1]: e["epochs"] for e in events if e["kind"] == "start"}
    assert announced == {arm: fields["epochs"][0] for arm, fields in group["arms"].items()}
    assert none["epochs"] == group["arms"]["aux"]["epochs"] == [4, 4]
    assert group["arms"]["compute"]["epochs"] == [round(4 * costs["aux"] / costs["none"])] * 2
    assert costs["compute"] == costs["smooth"] == costs["none"] < costs["aux"]
    memory = {arm: fields["saved_bytes"] for arm, fields in group["arms"].items()}
    assert memory["compute"] == memory["none"] < memory["aux"]
    assert "inference_ms" in none
    assert "inference_ms" not in group["arms"]["wide"]  # another network: its time says nothing about a method
    assert list(group["arms"]["aux"]["outputs"]) == ["relu1", "relu2", "main", "ensemble"]
    with pytest.raises(ConfigError, match="correction was 'holm', now 'bonferroni'"):
        compare(several(tmp_path, correction="bonferroni"))


def test_time_that_is_over_stops_no_seed_that_has_begun(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    cells = several(Path("x")).expand()
    rounds = comparisons.Rounds(cells, minutes=2)
    taken = [rounds.take() for _ in range(6)]  # into the second seed
    assert taken == cells[:6]
    now[0] = 121.0
    assert [rounds.take() for _ in range(5)] == [*cells[6:10], None]
    late = comparisons.Rounds(cells, minutes=2)
    now[0] += 1000
    assert [late.take() for _ in range(6)] == [*cells[:5], None]  # one seed at least, or nothing would ever come of it
    endless = comparisons.Rounds(cells)
    assert [endless.take() for _ in range(11)] == [*cells, None]


def test_failures_are_told_with_the_end_of_the_log_and_the_other_runs_are_kept(tmp_path: Path):
    changes = {
        "base": {"model": "tests.support.tiny_comparisons:dies_when_supervised", "epochs": 1},
        "groups": {"adam": {"supervise": None, "model_options": {}}, "sgd": {}},
        "arms": {"aux": {"model_options": {"deadly": True}}},
        "seeds": [0],
    }
    with pytest.raises(DeepsupError) as caught:
        compare(config(tmp_path, **changes))
    text = str(caught.value)
    assert text.startswith("2 of 4 runs failed: ")
    assert "adam/plain/seed0" not in text.splitlines()[0]
    assert "signal 9" in text
    assert "run.log" in text
    assert read(tmp_path / "adam" / "plain" / "seed0" / "journal.jsonl")[-1]["kind"] == "end"
    assert "last words" in (tmp_path / "adam" / "aux" / "seed0" / "run.log").read_text()
    result = json.loads((tmp_path / "compare.json").read_text())
    assert result["complete"] is False
    assert [g["verdicts"]["aux"]["n"] for g in result["groups"]] == [0, 0]
    assert result["missing"] == ["adam/aux/seed0", "sgd/aux/seed0"]
    assert result["groups"][0]["arms"]["aux"]["final"] == [None]


def test_a_run_that_diverges_is_a_result_and_runs_again_with_other_settings_alone(tmp_path: Path):
    def of(schedule: str) -> ComparisonConfig:
        arms = {"aux": {"optimizer": {"schedule": schedule}}}
        return config(tmp_path, base={"epochs": 1}, arms=arms, seeds=[0, 1]).model_copy(update={"groups": {"adam": {}}})

    result = compare(of("step(1, {0.4: 1e30})"))
    (group,) = result["groups"]
    assert (result["complete"], result["missing"]) == (True, [])
    assert group["arms"]["aux"]["diverged"] == group["arms"]["aux"]["runs"] == ["adam/aux/seed0", "adam/aux/seed1"]
    found = group["verdicts"]["aux"]
    assert found["n"] == 2
    assert found["mean_difference"] == pytest.approx(-group["arms"]["plain"]["mean"])
    assert found["remarks"][0] == "aux diverged with seed 0 and seed 1, which counts as a score of 0"
    assert "NonFiniteError: " in (tmp_path / "adam" / "aux" / "seed0" / "run.log").read_text()
    events: list[dict[str, Any]] = []
    assert compare(of("step(1, {0.4: 1e30})"), on_event=events.append) == result
    assert [e["kind"] for e in events] == ["rule"]
    repaired = compare(of("constant(1)"), on_event=events.append)
    assert {e["run"] for e in events if "run" in e} == {"adam/aux/seed0", "adam/aux/seed1"}
    assert repaired["groups"][0]["arms"]["aux"]["diverged"] == []
    assert not any("diverged" in remark for remark in repaired["groups"][0]["verdicts"]["aux"]["remarks"])


def growing(folder: Path, **changes: Any) -> ComparisonConfig:
    given = {"seeds": [0, 1, 2], "until": "decided", "max_seeds": 6} | changes
    return config(folder, **given).model_copy(update={"groups": {"adam": {}}})


def accuracy(cell: Cell) -> float:
    """Undecided with three seeds and with four, decided with five."""
    gap = {"aux": [0.30, 0.10, 0.25, 0.2, 0.2, 0.2]}.get(cell.arm, [0.0] * 6)[cell.seed]
    return 0.5 + gap


def test_seeds_are_added_until_it_is_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    taken: list[str] = []
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(comparisons, "_run_all", pretending(accuracy, taken))
    result = compare(growing(tmp_path), on_event=events.append)
    (group,) = result["groups"]
    found = group["verdicts"]["aux"]
    assert result["complete"] is True
    assert found["verdict"] == "helps"
    assert found["n"] == 5 == len(group["arms"]["aux"]["runs"])
    assert [look["seeds"] for look in found["looks"]] == [3, 4, 5]
    widths = [look["ci_high"] - look["ci_low"] for look in found["looks"]]
    assert widths == sorted(widths, reverse=True)
    assert [look["ci_low"] > 0 for look in found["looks"]] == [False, False, True]
    assert found["reason"] == "decided after 5 seeds"
    assert "Seeds are added until every arm is decided or there are 6" in result["rule"]
    assert [event["seed"] for event in events if event["kind"] == "seed"] == [3, 4]
    assert taken == [f"adam/{arm}/seed{seed}" for seed in range(5) for arm in ("plain", "aux")]
    assert "With 6 seeds" in events[0]["detectable"]
    again: list[dict[str, Any]] = []
    assert compare(growing(tmp_path), on_event=again.append) == result
    assert len(taken) == 10
    with pytest.raises(ConfigError, match="max_seeds was 6, now 9"):  # more looks would be another comparison
        compare(growing(tmp_path, max_seeds=9))


@pytest.mark.parametrize("stop", range(1, 10))
def test_a_growing_comparison_that_is_killed_anywhere_ends_the_same(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    taken: list[str] = []

    def dies(cell: Cell) -> float:
        if len(taken) > stop:
            raise KeyboardInterrupt
        return accuracy(cell)

    monkeypatch.setattr(comparisons, "_check_arms", lambda *_: None)
    monkeypatch.setattr(comparisons, "_run_all", pretending(dies, taken))
    with pytest.raises(KeyboardInterrupt):
        compare(growing(tmp_path / "a"))
    assert json.loads((tmp_path / "a/compare.json").read_text())["complete"] is False
    monkeypatch.setattr(comparisons, "_run_all", pretending(accuracy, taken))
    result = compare(growing(tmp_path / "a"))
    assert len(set(taken)) == 10
    assert len(taken) == 11
    once = compare(growing(tmp_path / "b"))
    assert result["groups"] == once["groups"]


def test_a_growing_comparison_ends_with_the_last_seed_and_counts_what_diverges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    taken: list[str] = []

    def even(cell: Cell) -> float:
        return math.nan if (cell.arm, cell.seed) == ("aux", 4) else 0.5 + 0.01 * (cell.seed % 2)

    monkeypatch.setattr(comparisons, "_check_arms", lambda *_: None)
    monkeypatch.setattr(comparisons, "_run_all", pretending(even, taken))
    result = compare(growing(tmp_path))
    found = result["groups"][0]["verdicts"]["aux"]
    assert (found["verdict"], found["n"], result["complete"]) == ("no evidence", 6, True)
    assert found["reason"] == "undecided after 6 of at most 6 seeds"
    assert "aux diverged with seed 4, which counts as a score of 0" in found["remarks"]
    assert len(taken) == 12


def test_when_time_is_over_no_seed_is_added_and_the_next_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    taken: list[str] = []
    monkeypatch.setattr(comparisons, "_check_arms", lambda *_: None)
    monkeypatch.setattr(comparisons, "_run_all", pretending(accuracy, taken))
    half = compare(growing(tmp_path, minutes=1e-9))
    assert (half["complete"], len(taken)) == (False, 2)
    assert half["groups"][0]["verdicts"]["aux"]["reason"] == "the first look is after 3 seeds"
    assert compare(growing(tmp_path))["complete"] is True
    assert len(taken) == 10


def test_what_can_be_seen_is_told_before_anything_runs_and_by_the_runs_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    taken: list[str] = []
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(comparisons, "_run_all", pretending(accuracy, taken))
    first = compare(growing(tmp_path, until=None, max_seeds=None, minutes=1e-9), on_event=events.append)
    assert first["detectable"]["pilot"] is False
    assert first["detectable"]["says"] == events[0]["detectable"]
    assert "four times in five: assumed that the difference deviates by 1 points" in events[0]["detectable"]
    monkeypatch.setattr(comparisons.Rounds, "late", lambda self: len(taken) >= 4)
    compare(growing(tmp_path, until=None, max_seeds=None), on_event=events.append)
    again: list[dict[str, Any]] = []
    monkeypatch.setattr(comparisons.Rounds, "late", lambda self: False)
    last = compare(growing(tmp_path, until=None, max_seeds=None), on_event=again.append)
    assert "in the runs that are there the difference deviates by 14 points" in again[0]["detectable"]
    assert last["detectable"] == first["detectable"]


WRONG = {
    "cds": (
        {"methods": ["none", "cds"], "base": {"data": {"views": 1}}},
        r"arm 'cds' cannot be trained: .*data\.views is 1",
    ),
    "alone": (
        {"methods": {"none": None, "alone": "equal-compute"}},
        r"arm 'alone' cannot be trained: .*needs supervise\.like",
    ),
    "follows": (
        {
            "methods": {"none": None},
            "arms": {"follows": {"supervise": {"method": "equal-compute", "like": {"at": ["nowhere"]}}}},
        },
        "arm 'follows' cannot be trained: .*'nowhere'",
    ),
    "layer": (
        {
            "methods": {
                "none": None,
                "there": {"method": "aux", "at": ["relu2"]},
                "lost": {"method": "aux", "at": ["relu9"]},
            }
        },
        "arm 'lost' cannot be trained: .*'relu9'",
    ),
    "images": (
        {"methods": {"none": None}, "arms": {"other": {"data": {"name": "cifar10", "root": "/nowhere"}}}},
        "arm 'other' cannot be trained: .*/nowhere",
    ),
    "baseline": ({"methods": {"none": None}, "arms": {"none": {"model": "deepsup:no"}, "b": {}}}, "arm 'none' cannot"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_arm_that_cannot_be_trained_is_named_before_anything_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(comparisons, "_run_all", lambda *a, **k: pytest.fail("a run was started"))
    changes, message = WRONG[name]
    without = {k: v for k, v in settings("").items() if k not in ("name", "output", "supervise")}
    checked = configs.parse({"base": without, "output": str(tmp_path / "c"), **changes})
    assert isinstance(checked, ComparisonConfig)
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        compare(checked)
    assert not (tmp_path / "c").exists()


def test_arms_are_checked_once_each_with_shared_images_and_without_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loads: list[Any] = []
    load_data = prepare.load_data
    monkeypatch.setattr(prepare, "load_data", lambda config: loads.append(config.name) or load_data(config))
    monkeypatch.setattr(prepare, "_probe", lambda *a, **k: pytest.fail("probed"))
    automatic = config(tmp_path, arms={"aux": {"supervise": {"at": "auto"}}, "plain": {"data": {"limit": 64}}})
    checks: list[str] = []
    check_run = prepare.check_run
    monkeypatch.setattr(prepare, "check_run", lambda c, data: checks.append(c.name) or check_run(c, data))
    comparisons._check_arms(automatic.expand()[1:], automatic)
    assert checks == ["adam/aux/seed0", "sgd/plain/seed0", "sgd/aux/seed0", "adam/plain/seed1"]
    assert loads == ["adam/aux/seed0", "sgd/plain/seed0"]


def test_a_failed_arm_can_be_repaired_and_only_it_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(results, "TIMING_SECONDS", 0.05)

    def of(broken: bool, **changes: Any) -> ComparisonConfig:
        arms = {"aux": {"model_options": {"broken": broken}}}
        base = {"model": "tests.support.tiny_comparisons:breaks", "epochs": 1}
        one = config(tmp_path, base=base, arms=arms, seeds=[0], jobs=1)
        return one.model_copy(update={"groups": {"adam": {}}, **changes})

    with pytest.raises(DeepsupError) as caught:
        compare(of(True))
    assert str(caught.value).count("named, and mendable") == 1
    assert "Traceback" not in str(caught.value)
    begun = tmp_path / "adam" / "aux" / "seed0"
    failed = of(True).expand()[1].config
    configs.save(failed, begun / "config.yaml")  # as if it had failed after its first steps
    with pytest.raises(ConfigError, match=r"holds a comparison with other settings: arms\.plain\.epochs"):
        compare(of(False, arms=of(False).arms | {"plain": {"supervise": None, "epochs": 2}}))
    with pytest.raises(ConfigError, match=r"holds a comparison with other settings: arms\.third"):
        compare(of(False, arms=of(False).arms | {"third": {"supervise": None}}))
    assert begun.exists()
    events: list[dict[str, Any]] = []
    repaired = of(False, arms=of(False).arms | {"aux": {"supervise": SUPERVISED, "epochs": 2}})
    result = compare(repaired, on_event=events.append)
    assert result["complete"] is True
    assert {e["run"] for e in events[1:]} == {"adam/aux/seed0"}
    assert result["rule"].endswith("for these epochs: adam/plain 1, adam/aux 2.")
    assert configs.load(tmp_path / "config.yaml", trust=True) == repaired
    assert configs.load(tmp_path / "adam" / "aux" / "seed0.old1" / "config.yaml", trust=True) == failed
    with pytest.raises(ConfigError, match=r"arms\.aux\.epochs was 2, now 3"):
        compare(of(False, arms=repaired.arms | {"aux": {"supervise": SUPERVISED, "epochs": 3}}))


def test_errors_of_ours_are_told_without_a_traceback_and_others_with_it(tmp_path: Path):
    log = tmp_path / "run.log"
    assert comparisons._tail(tmp_path, "its process ended.") == ""
    log.write_text("Traceback\n  somewhere\ndeepsup.errors.PlanError: one line\nand another\n")
    assert comparisons._tail(tmp_path, "one line\nand another") == f"\nWhere it was raised is in {log}."
    log.write_text("Traceback\n  somewhere\nTypeError: no\n")
    assert comparisons._tail(tmp_path, "TypeError: no").endswith(":\n  Traceback\n    somewhere\n  TypeError: no")


def test_an_arm_that_a_finished_one_follows_stays_as_it_is(tmp_path: Path):
    before = several(tmp_path)
    after = several(
        tmp_path, methods={"none": None, "aux": SUPERVISED | {"at": ["relu1"]}, "smooth": "label-smoothing"}
    )
    tmp_path.joinpath("config.yaml").touch()
    configs.save(before, tmp_path / "config.yaml")
    runs.check_folder(tmp_path, after)
    done = tmp_path / "all" / "compute" / "seed0"
    done.mkdir(parents=True)
    (done / "journal.jsonl").write_text('{"kind": "end", "seconds": 1.0}\n')
    (done / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"other settings: arms\.aux\.supervise\.at[^;]*\. Choose"):
        runs.check_folder(tmp_path, after)


def test_torchrun_around_a_comparison_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        compare(config(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_settings_that_the_user_keeps_in_the_folder_are_not_written_over(tmp_path: Path):
    asked = several(tmp_path)
    configs.save(asked, tmp_path / "config.yaml")
    written = "# mine\n" + (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(written)
    with pytest.raises(ConfigError, match=r"deepsup did not write.*: config\.yaml"):
        compare(asked)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("config.yaml", written)]
