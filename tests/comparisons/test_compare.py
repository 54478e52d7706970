from __future__ import annotations

import io
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from deepsup import reports
from deepsup.cli import tables
from deepsup.cli.progress import Display
from deepsup.comparisons import compare as comparisons
from deepsup.comparisons import results
from deepsup.comparisons.compare import compare
from deepsup.comparisons.results import time_side_by_side
from deepsup.comparisons.statistics import verdict
from deepsup.errors import ConfigError, DeepsupError
from deepsup.settings import training
from deepsup.settings.training import ComparisonConfig
from deepsup.training import prepare, runs
from deepsup.training.journal import read
from deepsup.training.runs import train
from tests.support.tiny_runs import SUPERVISED, dropout_net, settings
from tests.support.tiny_runs import config as tiny_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _workers_find_these_tests():
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))
    yield
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


def config(output: Path, **changes: Any) -> ComparisonConfig:
    base = {k: v for k, v in settings("").items() if k not in ("name", "output", "supervise")}
    data = {
        "name": "tiny",
        "base": base,
        "groups": {"adam": {}, "sgd": {"optimizer": {"name": "sgd", "lr": 0.05}}},
        "arms": {"plain": {"supervise": None}, "aux": {"supervise": SUPERVISED}},
        "seeds": [0, 1],
        "jobs": 2,
        "output": str(output),
    }
    checked = training.parse(training.merge(data, changes))
    assert isinstance(checked, ComparisonConfig)
    return checked


class Finished:
    def __init__(self, folder: Path) -> None:
        self.config = config(folder)
        self.folder = folder
        self.events: list[dict[str, Any]] = []
        self.before: dict[str, Any] = {}
        self.result = compare(self.config, on_event=self.see)

    def see(self, event: dict[str, Any]) -> None:
        if event["kind"] == "rule":
            self.before = json.loads((self.folder / "compare.json").read_text())
            assert not any(self.folder.glob("*/*/*/journal.jsonl"))
        self.events.append(event)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("comparison") / "tiny")


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


def test_the_result_is_what_the_journals_say(finished: Finished):
    assert json.loads((finished.folder / "compare.json").read_text()) == finished.result
    assert finished.result["complete"] is True
    for group in finished.result["groups"]:
        for arm, found in group["arms"].items():
            ends = [read(finished.folder / run / "journal.jsonl", "end")[0] for run in found["runs"]]
            start = read(finished.folder / found["runs"][0] / "journal.jsonl", "start")[0]
            assert found["final"] == [end["score"] for end in ends]
            assert found["mean"] == pytest.approx(statistics.fmean(found["final"]))
            assert found["std"] == pytest.approx(statistics.stdev(found["final"]))
            assert found["seconds"] == [end["seconds"] for end in ends]
            cost = start["cost"]
            assert found["train_flops"] == cost["trunk_flops"] + cost["head_flops"]
            assert (found["train_params"] > found["inference_params"]) == (arm == "aux")
            assert found["inference_ms"] > 0
            assert (start["group"], start["arm"]) == (group["name"], arm)
        plain, aux = (group["arms"][arm] for arm in ("plain", "aux"))
        assert plain["inference_params"] == aux["inference_params"]
        assert plain["inference_flops"] == aux["inference_flops"]
        expected = verdict(plain["final"], aux["final"])
        assert group["verdicts"] == {"aux": {**expected._asdict(), "baseline": "plain", "candidate": "aux"}}
        assert group["baseline"] == "plain"


def test_every_supervised_run_has_its_certificate(finished: Finished):
    listed = finished.result["certificates"]
    assert [c["run"] for c in listed] == ["adam/aux/seed0", "sgd/aux/seed0", "adam/aux/seed1", "sgd/aux/seed1"]
    for entry in listed:
        proof = json.loads((finished.folder / entry["path"]).read_text())
        assert entry["identical"] is proof["identical"] is True
        assert entry["state_sha256"] == proof["state_sha256"]


def test_pairs_start_from_the_same_weights_and_see_the_same_batches(finished: Finished):
    for seed in (0, 1):
        first = {
            arm: read(finished.folder / "adam" / arm / f"seed{seed}" / "journal.jsonl", "step")[0]["parts"]["main"]
            for arm in ("plain", "aux")
        }
        assert first["plain"] == first["aux"]


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


def wide_net(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(256 * in_channels, 32), nn.ReLU(), nn.Linear(32, num_classes))


def several(output: Path, **changes: Any) -> ComparisonConfig:
    """Two methods, a control of equal compute and another network, against the plain model."""
    base = {k: v for k, v in settings("", epochs=4, data={"limit": 64}).items() if k not in ("name", "output")}
    data = {
        "base": base,
        "methods": {"none": None, "aux": SUPERVISED, "smooth": "label-smoothing(smoothing=0.2)"},
        "arms": {
            "compute": {"supervise": {"method": "equal-compute", "like": "aux"}},
            "wide": {"model": "tests.comparisons.test_compare:wide_net", "supervise": None},
        },
        "seeds": [0, 1],
        "output": str(output),
    }
    checked = training.parse(data | changes)
    assert isinstance(checked, ComparisonConfig)
    return checked


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
    assert "4 comparisons at 95 % each" in half["rule"]
    assert half["rule"].endswith("for as many epochs; compute trains as many as cost the arithmetic of aux.")

    whole = compare(several(tmp_path, correction="none"))  # no limit of time now, and the same comparison
    assert (whole["complete"], whole["missing"], whole["rule"]) == (True, [], half["rule"])
    (group,) = whole["groups"]
    none = group["arms"]["none"]
    for arm, found in group["verdicts"].items():
        expected = verdict(none["final"], group["arms"][arm]["final"])
        assert found == {**expected._asdict(), "baseline": "none", "candidate": arm}
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
    with pytest.raises(ConfigError, match="correction was 'none', now 'bonferroni'"):
        compare(several(tmp_path, correction="bonferroni"))


DIFFERS = (
    "The main output's loss differs between the arms{} ({}), and a difference in score may come from that. Set base.loss to "
    "give all of them the same."
)
DICE = "dice_cross_entropy(resize='nearest')"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"methods": ["none", "nnunet"]}, ("", f"none: cross_entropy; nnunet: {DICE}")),
        ({"methods": ["none", "monai", "aux", "nnunet"]}, ("", f"none, aux: cross_entropy; monai, nnunet: {DICE}")),
        ({"methods": ["none", "nnunet"], "groups": {"a": {"loss": "dice"}, "b": {}}},
         (" of b", f"none: cross_entropy; nnunet: {DICE}")),
        ({"methods": ["none", "nnunet"], "groups": {"a": {}, "b": {}}}, ("", f"none: cross_entropy; nnunet: {DICE}")),
        ({"methods": ["none", "nnunet"], "base": {"loss": "dice"}}, None),
        ({"methods": ["none", "dhm", "label-smoothing(smoothing=0.2)"]}, None),
        ({"methods": ["label-smoothing", "dsn"], "baseline": "dsn"}, None),
        ({"vary": {"loss": ["dice", "cross_entropy"]}}, None),
    ],
)  # fmt: skip
def test_what_else_differs_between_the_arms_is_said(settings: dict[str, Any], told: tuple[str, str] | None):
    assert results.notes(training.parse(settings)) == ([DIFFERS.format(*told)] if told else [])


def test_what_else_differs_is_said_before_anything_runs_and_with_the_result(tmp_path: Path):
    described = several(tmp_path, methods={"none": None, "dsn": {"at": ["relu1"]}}, arms={})
    events: list[dict[str, Any]] = []

    def stop(event: dict[str, Any]) -> None:
        events.append(event)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(described, on_event=stop)
    note = DIFFERS.format("", "none: cross_entropy; dsn: squared_hinge")
    stated = json.loads((tmp_path / "compare.json").read_text())
    assert stated["notes"] == events[0]["notes"] == [note]
    assert not any(tmp_path.glob("*/*/*/journal.jsonl"))
    assert reports.evidence(tmp_path).notes[0] == note
    shown = Console(file=io.StringIO(), width=300)
    with Display(shown) as display:
        display.see(events[0])
    result = results.summarise(described, stated)
    shown.print(*tables.comparison(result))
    assert "no evidence (losses differ). no pair of runs has finished" in shown.file.getvalue()  # type: ignore[attr-defined]
    same = results.summarise(several(tmp_path), stated)
    assert "losses differ" not in " ".join(reports.verdict_lines(same))
    assert shown.file.getvalue().count(f"note: {note}") == 1  # type: ignore[attr-defined]


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


def test_a_candidate_is_judged_by_the_seeds_that_it_shares_with_the_baseline():
    config = several(Path("x"), correction="bonferroni")
    arms = {
        "none": {"final": [0.1, 0.2, 0.3, None]},
        "aux": {"final": [0.2, None, 0.5, 0.9]},
        "wide": {"final": [None] * 4},
    }
    expected = verdict([0.1, 0.3], [0.2, 0.5], confidence=1 - 0.05 / 4)
    assert results._verdict(config, arms, "aux") == {**expected._asdict(), "baseline": "none", "candidate": "aux"}
    assert results._verdict(config, arms, "wide")["n"] == 0


def dies_when_supervised(num_classes: int, in_channels: int, deadly: bool = False) -> nn.Module:
    if deadly and "deepsup.comparisons.workers" in sys.orig_argv:  # not where the arms are checked before
        sys.stderr.write("last words\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return dropout_net(num_classes, in_channels)


def test_failures_are_told_with_the_end_of_the_log_and_the_other_runs_are_kept(tmp_path: Path):
    changes = {
        "base": {"model": "tests.comparisons.test_compare:dies_when_supervised", "epochs": 1},
        "groups": {
            "adam": {"supervise": None, "model_options": {}},
            "sgd": {"optimizer": {"schedule": "step(1, {0.4: 1e30})"}},
        },
        "arms": {"aux": {"model_options": {"deadly": True}}},
        "seeds": [0],
    }
    with pytest.raises(DeepsupError) as caught:
        compare(config(tmp_path, **changes))
    text = str(caught.value)
    assert text.startswith("3 of 4 runs failed: ")
    assert "adam/plain/seed0" not in text.splitlines()[0]
    assert "signal 9" in text or "NaN" in text
    assert "run.log" in text
    assert read(tmp_path / "adam" / "plain" / "seed0" / "journal.jsonl")[-1]["kind"] == "end"
    assert "last words" in (tmp_path / "adam" / "aux" / "seed0" / "run.log").read_text()
    assert "NonFiniteError: " in (tmp_path / "sgd" / "plain" / "seed0" / "run.log").read_text()
    result = json.loads((tmp_path / "compare.json").read_text())
    assert result["complete"] is False
    assert [g["verdicts"]["aux"]["n"] for g in result["groups"]] == [0, 0]
    assert result["missing"] == ["adam/aux/seed0", "sgd/plain/seed0", "sgd/aux/seed0"]
    assert result["groups"][0]["arms"]["aux"]["final"] == [None]


WRONG = {
    "cds": ({"methods": ["none", "cds"]}, r"arm 'cds' cannot be trained: .*data\.views is 1"),
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
    checked = training.parse({"base": without, "output": str(tmp_path / "c"), **changes})
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
    comparisons._check_arms(automatic.expand()[1:])
    assert checks == ["adam/aux/seed0", "sgd/plain/seed0", "sgd/aux/seed0", "adam/plain/seed1"]
    assert loads == ["adam/aux/seed0", "sgd/plain/seed0"]


def breaks(num_classes: int, in_channels: int, broken: bool = False) -> nn.Module:
    if broken and "deepsup.comparisons.workers" in sys.orig_argv:
        raise ConfigError("named, and mendable")
    return dropout_net(num_classes, in_channels)


def test_a_failed_arm_can_be_repaired_and_only_it_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(results, "TIMING_SECONDS", 0.05)

    def of(broken: bool, **changes: Any) -> ComparisonConfig:
        arms = {"aux": {"model_options": {"broken": broken}}}
        base = {"model": "tests.comparisons.test_compare:breaks", "epochs": 1}
        one = config(tmp_path, base=base, arms=arms, seeds=[0], jobs=1)
        return one.model_copy(update={"groups": {"adam": {}}, **changes})

    with pytest.raises(DeepsupError) as caught:
        compare(of(True))
    assert str(caught.value).count("named, and mendable") == 1
    assert "Traceback" not in str(caught.value)
    begun = tmp_path / "adam" / "aux" / "seed0"
    failed = of(True).expand()[1].config
    training.save(failed, begun / "config.yaml")  # as if it had failed after its first steps
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
    assert training.load(tmp_path / "config.yaml") == repaired
    assert training.load(tmp_path / "adam" / "aux" / "seed0.old1" / "config.yaml") == failed
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
    training.save(before, tmp_path / "config.yaml")
    runs.check_folder(tmp_path, after)
    done = tmp_path / "all" / "compute" / "seed0"
    done.mkdir(parents=True)
    (done / "journal.jsonl").write_text('{"kind": "end"}\n')
    (done / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"other settings: arms\.aux\.supervise\.at[^;]*\. Choose"):
        runs.check_folder(tmp_path, after)


@pytest.mark.parametrize("command", ["train", "compare"])
def test_ctrl_c_says_in_one_line_that_the_same_command_goes_on(command: str, tmp_path: Path):
    tiny = {k: v for k, v in settings("", epochs=100_000).items() if k not in ("name", "output", "supervise")}
    arms = {"base": tiny, "arms": {"plain": {}, "aux": {"supervise": SUPERVISED}}, "baseline": "plain"}
    described = tmp_path / "c.yaml"
    described.write_text(json.dumps((tiny if command == "train" else arms) | {"output": str(tmp_path / "out")}))
    process = subprocess.Popen(
        [sys.executable, "-m", "deepsup", command, str(described)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that all its processes get the signal, as from a terminal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background shell ignores it
    )
    assert process.stdout is not None
    assert "epoch 1/" in process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert said == "stopped; the same command goes on\n"
    assert process.returncode == 130


def test_a_worker_ends_when_its_comparison_does(tmp_path: Path):
    worker = subprocess.Popen(
        [sys.executable, "-m", "deepsup.comparisons.workers", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    endless = settings(tmp_path / "run", epochs=100_000)
    task = {"run": "run", "group": None, "arm": None, "config": endless}
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(task) + "\n")
    worker.stdin.flush()
    assert json.loads(worker.stdout.readline())["record"]["kind"] == "start"
    worker.stdin.close()  # as the operating system does for a comparison that is killed
    worker.stdout.close()
    assert worker.wait(timeout=20) == 0


def test_torchrun_around_a_comparison_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        compare(config(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_timing_takes_turns():
    calls: list[float] = []

    class Recording(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(float(self.weight[0, 0]))
            return super().forward(x)

    states = {name: nn.Linear(1, 1).state_dict() for name in ("a", "b")}
    states["a"]["weight"].fill_(1.0)
    states["b"]["weight"].fill_(2.0)
    times = time_side_by_side(Recording(1, 1), states, torch.zeros(1, 1), seconds=0.01)
    assert calls[:4] == [1.0, 1.0, 2.0, 2.0]  # once to warm up, once on the clock
    assert calls.count(1.0) == calls.count(2.0)
    assert all(t > 0 for t in times.values())


def test_the_display_shows_every_run_and_where_it_is(finished: Finished):
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    with Display(console) as display:
        for event in finished.events:
            display.see(event)
    text = Console(width=140, file=io.StringIO(), record=True)
    text.print(display)
    shown = text.export_text()
    assert "8 of 8 runs done" in shown
    assert "aux minus plain" in shown
    line = next(row for row in shown.splitlines() if row.startswith("sgd/aux/seed1"))
    assert "done" in line
    assert "2/2" in line
    assert "relu1" in line


def drawn(display: Display, width: int) -> list[str]:
    text = Console(width=width, file=io.StringIO(), record=True)
    text.print(display)
    return [line.rstrip() for line in text.export_text().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_display_cuts_no_run_epoch_loss_or_accuracy(width: int):
    runs = [f"adam/{arm}/seed{seed}" for arm in ("plain", "supervised") for seed in (0, 1)]
    display = Display(Console(file=io.StringIO()))
    display.see({"kind": "rule", "rule": "the rule", "runs": runs, "finished": runs[:1]})
    display.see({"kind": "start", "run": runs[2], "metric": "accuracy", "config": {"epochs": 14}})
    scores = {"main": 1.0, **{f"relu{i}": 0.9 for i in range(1, 5)}}
    epoch = {"kind": "epoch", "epoch": 13, "progress": 13 / 14, "train": {"total": 12.3456}}
    display.see({**epoch, "run": runs[2], "validation": {"score": scores}})
    lines = drawn(display, width)
    assert not any("…" in line or len(line) > width for line in lines)
    heading = next(line for line in lines if line.startswith("run"))
    (line,) = (line for line in lines if line.startswith(runs[2]))
    name, bar, *cells = line.split()
    assert (name, cells[:3]) == (runs[2], ["13/14", "12.346", "100.0%"])
    assert len(bar) == (9 if width == 60 else 15)  # of a bar that is shorter in the narrowest one
    assert ("branches" in heading) == ("relu4 90%" in line) == (width == 140)
    assert lines[-1] == "1 of 4 runs done, 1 of them before"


def test_a_low_terminal_shows_the_runs_at_work_and_all_of_them_at_the_end():
    runs = [f"all/arm{i}/seed{seed}" for seed in range(3) for i in range(9)]
    console = Console(file=io.StringIO(), width=80)
    with Display(console) as display:
        display.see({"kind": "rule", "rule": "the rule", "runs": runs, "finished": runs[:20]})
        display.see({"kind": "start", "run": runs[21], "config": {"epochs": 3}})
        display.see({"kind": "failed", "run": runs[2], "error": "it was interrupted."})
        lines = drawn(display, 80)  # of a terminal with 25 lines
        assert len(lines) <= 24
        shown = [line.split()[0] for line in lines if line.startswith("all/")]
        assert {runs[21], runs[2], runs[20], *runs[22:]} <= set(shown)
        assert shown == [run for run in runs if run in shown]
        assert lines[-2:] == [f"and {27 - len(shown)} done", "19 of 27 runs done, 20 of them before"]
    assert [line.split()[0] for line in drawn(display, 80) if line.startswith("all/")] == runs


def test_the_display_shows_no_column_and_no_count_of_nothing():
    display = Display(Console(file=io.StringIO()))
    assert drawn(display, 80) == []
    display.see({"kind": "rule", "rule": "the rule", "runs": ["a", "b"], "finished": ["a", "b"]})
    assert drawn(display, 80) == ["the rule", "", "run", "a    done", "b    done", "2 of 2 runs done, 2 of them before"]
    single = Display(Console(file=io.StringIO()), name="digits")
    single.see({"kind": "start", "config": {"epochs": 3}})
    assert not any("runs done" in line for line in drawn(single, 80))


def test_nothing_is_drawn_where_nothing_happens():
    console = Console(file=io.StringIO(), force_terminal=True)
    with Display(console):
        pass
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_resumed_run_says_so_once_and_keeps_its_number_of_epochs(tmp_path: Path, terminal: bool):
    def stop(record: dict[str, Any]) -> None:
        if record["kind"] == "epoch":
            raise KeyboardInterrupt

    resumable = tiny_config(tmp_path, epochs=3, checkpoint={"every_steps": 4})
    with pytest.raises(KeyboardInterrupt):
        train(resumable, on_record=stop)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    shown: list[str] = []
    with Display(console, name="tiny") as display:

        def see(record: dict[str, Any]) -> None:
            display.see(record)
            shown.extend(drawn(display, 100))

        train(resumable, on_record=see)
    assert console.file.getvalue().count("tiny: resumes at epoch 1\n") == 1  # type: ignore[attr-defined]
    epochs = [line.split()[2] for line in shown if line.startswith("tiny")]
    assert epochs[0] == "1/3"
    assert epochs[-1] == "3/3"
    assert all(epoch.endswith("/3") for epoch in epochs)
    (resume,) = read(tmp_path / "journal.jsonl", "resume")
    assert (resume["step"], resume["epoch"], resume["epochs"]) == (8, 1, 3)
    assert resume["progress"] == pytest.approx(8 / 30)


def test_without_a_terminal_the_display_prints_a_line_an_epoch(finished: Finished):
    console = Console(file=io.StringIO(), width=140)
    with Display(console) as display:
        for event in finished.events:
            display.see(event)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len([line for line in lines if "epoch 1/2" in line]) == 8
    assert comparisons.LOG_LINES > 0
