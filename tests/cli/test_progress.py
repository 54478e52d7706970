"""What is shown while runs are under way."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deepsup.cli.progress import Display
from deepsup.tasks import METRICS
from deepsup.training.journal import read
from deepsup.training.loop import FitResult
from deepsup.training.runs import train
from tests.support.tiny_comparisons import Finished
from tests.support.tiny_runs import config


def drawn(display: Display, width: int) -> list[str]:
    text = Console(width=width, file=io.StringIO(), record=True)
    text.print(display)
    return [line.rstrip() for line in text.export_text().splitlines()]


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


def test_without_a_terminal_the_display_prints_a_line_an_epoch(finished: Finished):
    console = Console(file=io.StringIO(), width=140)
    with Display(console) as display:
        for event in finished.events:
            display.see(event)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len([line for line in lines if "epoch 1/2" in line]) == 8
    assert lines[0].startswith("With 2 seeds and 360 validation images this comparison sees differences of")
    assert [line.partition(":")[0] for line in lines[1:3]] == ["training", "validation"]  # once for all runs
    assert len([line for line in lines if line.startswith("validation: ")]) == 1


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


def test_a_search_tells_its_first_rank_beside_its_score_of_every_output():
    scores = {"main": {"mAP": 0.4521, "rank-1": 0.7}, "late": {"mAP": 0.3, "rank-1": 0.55}}
    validation = {"score": {name: found["mAP"] for name, found in scores.items()}, "scores": scores}
    epoch = {"kind": "epoch", "epoch": 2, "progress": 0.5, "train": {"total": 1.0}, "validation": validation}
    console = Console(file=io.StringIO(), width=60)
    display = Display(console, name="who")
    for event in ({"kind": "start", "metric": "mAP", "config": {"epochs": 4}}, epoch):
        display.see(event)
    assert console.file.getvalue() == "who: trains, epoch 2/4, mAP 45.2%, rank-1 70.0%, late 30%, rank-1 55%\n"  # type: ignore[attr-defined]
    display.see({**epoch, "epoch": 3, "validation": None})
    assert console.file.getvalue().endswith("\nwho: trains, epoch 3/4\n")  # type: ignore[attr-defined]
    assert any("45.2%, rank-1 70.0%  late 30%, rank-1 55%" in line for line in drawn(display, 120))
    display.see({"kind": "start", "metric": "rank-1", "config": {"epochs": 4}})
    assert not any("rank-1 70" in line for line in drawn(display, 120))  # once is enough


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


def test_what_can_be_seen_is_said_first_and_a_seed_that_is_added_waits_in_the_table():
    console = Console(file=io.StringIO(), width=40)
    display = Display(console)
    seen = "With 6 seeds this comparison sees differences of 3 points or more."
    display.see({"kind": "rule", "rule": "r", "detectable": seen, "runs": ["a/b/seed0"], "finished": ["a/b/seed0"]})
    display.see({"kind": "seed", "seed": 3, "runs": ["a/b/seed3"]})
    assert console.file.getvalue() == seen + "\n"  # type: ignore[attr-defined]
    shown = drawn(display, 80)
    assert any(line.split() == ["a/b/seed3", "waits"] for line in shown)
    assert shown[-1] == "1 of 2 runs done, 1 of them before"


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

    resumable = config(tmp_path, epochs=3, checkpoint={"every_steps": 4})
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


@pytest.mark.parametrize("metric", [one.name for one in METRICS.values() if one.plain])
@pytest.mark.parametrize("terminal", [True, False])
def test_scores_that_are_no_shares_are_never_written_in_percent(metric: str, terminal: bool):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    with Display(console) as display:
        display.see({"kind": "start", "metric": metric, "config": {"epochs": 1}})
        validation = {"score": {"main": 12.345, "relu1": 23.456}}
        epoch = {"kind": "epoch", "epoch": 1, "progress": 1.0, "train": {"total": 1.0}, "validation": validation}
        display.see(epoch)
        display.see({"kind": "end", "progress": 1.0, "score": 12.345})
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{metric} 12.35" in shown or "12.35" in "\n".join(drawn(display, 140))
    assert "%" not in shown
    result = FitResult(1, 1, 12.345, 11.5, metric, 1.0, None, [], None)
    assert f"{metric} 12.35, best 11.5;" in str(result)
    assert "%" not in str(result)
