"""Loggers: by name, for `fit` and for `train` alike, and a new one is one function."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import deepsup as ds
from deepsup.errors import ConfigError
from deepsup.training import loggers
from deepsup.training.journal import Record, Sink, read
from deepsup.training.runs import train
from tests.support.tiny_runs import config
from tests.support.training_runs import Interrupted, stop_at


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(8, 4), torch.arange(8) % 3) for _ in range(6)]


def net() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return ds.attach(model, ds.plan(model, batches()[0][0], at=["1"]))


def scalars(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


@pytest.fixture
def noted() -> Iterator[list[tuple[Any, Record]]]:
    """A logger `notes` that was registered by somebody else, and what it was told."""
    told: list[tuple[Any, Record]] = []

    @loggers.LOGGERS.register
    def notes(folder: Path, *, step: int | None = None, prefix: str = "") -> Sink:
        return lambda record: told.append(((folder.name, step, prefix), record))

    yield told
    del loggers.LOGGERS._known["notes"]


def test_train_writes_the_numbers_of_the_journal_to_tensorboard(tmp_path: Path) -> None:
    train(config(tmp_path, log={"tensorboard": True}))
    events, steps = scalars(tmp_path), read(tmp_path / "journal.jsonl", "step")
    assert [e.step for e in events.Scalars("loss/relu1")] == [r["step"] for r in steps]
    assert [e.value for e in events.Scalars("weight/relu1")] == pytest.approx([r["weights"]["relu1"] for r in steps])
    assert "validation accuracy/main" in events.Tags()["scalars"]


def numbers(folder: Path) -> dict[tuple[int, str], float]:
    """What the journal says, by hand."""
    found: dict[tuple[int, str], float] = {}
    for r in read(folder / "journal.jsonl"):
        if r["kind"] == "step":
            found |= {(r["step"], f"loss/{n}"): v for n, v in {"total": r["total"], **r["parts"]}.items()}
            found[r["step"], "lr/model"] = r["lr"]
        elif r["kind"] == "epoch":
            found |= {(r["step"], f"validation accuracy/{n}"): v for n, v in r["validation"]["score"].items()}
    return found


def interrupted(folder: Path, *steps: int, **log: Any) -> None:
    """A run that was stopped at each of these steps and then went on to its end."""
    settings = config(folder, log={"every": 2, **log}, checkpoint={"every_steps": 3})
    for step in steps:
        with pytest.raises(Interrupted):
            train(settings, on_record=stop_at(step))
    train(settings)


def test_csv_holds_the_journals_numbers_and_the_same_bytes_after_a_kill(tmp_path: Path) -> None:
    interrupted(tmp_path / "whole", loggers=["csv"])
    with (tmp_path / "whole" / "metrics.csv").open() as file:
        rows = {(int(r["step"]), r["name"]): float(r["value"]) for r in csv.DictReader(file)}
    expected = numbers(tmp_path / "whole")
    assert expected.items() <= rows.items()
    interrupted(tmp_path / "half", 8, 14, loggers=["csv"])
    one, other = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "half"))
    assert one == other
    assert len(one.splitlines()) == len(rows) + 1


def test_somebody_elses_csv_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"did not write.*metrics\.csv"):
        train(config(tmp_path, log={"loggers": ["csv"]}))
    assert (tmp_path / "metrics.csv").read_text() == "mine"


def test_mlflow_holds_them_once_also_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("mlflow").MlflowClient
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    interrupted(tmp_path / "run", 8, 14, loggers=["mlflow"])
    seen = client(tracking_uri=f"file:{tmp_path / 'run' / 'mlflow'}")
    (run,) = seen.search_runs([seen.get_experiment_by_name("deepsup").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.tags["config.optimizer.name"] == "adam"
    history = {(m.step, n): [m.value] for n in run.data.metrics for m in seen.get_metric_history(run.info.run_id, n)}
    counted = sum(len(seen.get_metric_history(run.info.run_id, n)) for n in run.data.metrics)
    assert counted == len(history)
    for key, value in numbers(tmp_path / "run").items():
        assert history[key] == pytest.approx([value])


def test_wandb_is_told_offline_and_goes_on_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("wandb")
    told: list[tuple[int, dict[str, float]]] = []
    log = library.Run.log
    monkeypatch.setattr(library.Run, "log", lambda self, data, step: told.append((step, data)) or log(self, data, step))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own
        interrupted(tmp_path / "run", 8, loggers=["wandb"])
    files = [p.name for p in (tmp_path / "run" / "wandb").glob("offline-run-*")]
    name = (tmp_path / "run" / "wandb" / "deepsup_id").read_text().strip()
    assert len({file.rpartition("-")[2] for file in files}) == 1
    assert all(file.endswith(name) for file in files)
    found = {(step, n): value for step, data in told for n, value in data.items()}
    assert numbers(tmp_path / "run").items() <= found.items()


@pytest.mark.parametrize("log", [{"tensorboard": True, "every": 2}, {"loggers": ["tensorboard"], "every": 2}])
def test_fit_writes_them_too(tmp_path: Path, log: dict[str, Any]) -> None:
    ds.fit(net(), batches(), validation=batches(), epochs=2, folder=tmp_path, log=log, engine={"accelerator": "cpu"})
    events, steps = scalars(tmp_path), read(tmp_path / "journal.jsonl", "step")
    assert len(steps) > 3
    assert [e.step for e in events.Scalars("loss/main")] == [r["step"] for r in steps]
    assert [e.value for e in events.Scalars("loss/1")] == pytest.approx([r["parts"]["1"] for r in steps])
    assert len(events.Scalars("validation accuracy/main")) == 2


def test_a_logger_of_ones_own_is_one_function_and_serves_both(tmp_path: Path, noted: list[tuple[Any, Record]]) -> None:
    train(config(tmp_path / "run", log={"loggers": ["notes(prefix='a')"]}))
    assert {where for where, _ in noted} == {("run", None, "a")}
    kinds = [record["kind"] for _, record in noted]
    assert kinds == [record["kind"] for record in read(tmp_path / "run" / "journal.jsonl")]
    noted.clear()
    ds.fit(net(), batches(), folder=tmp_path / "fit", log={"loggers": ["notes"]}, engine={"accelerator": "cpu"})
    assert [r["kind"] for _, r in noted] == [r["kind"] for r in read(tmp_path / "fit" / "journal.jsonl")]


def test_what_cannot_log_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    cpu = {"accelerator": "cpu"}
    with pytest.raises(ConfigError, match=r"no logger is called 'tensorbord'\. Closest: tensorboard"):
        train(config(tmp_path / "run", log={"loggers": ["tensorbord"]}))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="no logger is called 'comet'"):
        ds.fit(net(), batches(), folder=tmp_path / "fit", log={"loggers": ["comet"]}, engine=cpu)
    with pytest.raises(
        ConfigError, match=r"'tensorboard' writes into the run's folder, and there is none\. Give folder="
    ):
        ds.fit(net(), batches(), log={"tensorboard": True}, engine=cpu)
    with pytest.raises(ConfigError, match="logger 'tensorboard' has no option 'step'"):
        ds.fit(net(), batches(), folder=tmp_path / "fit", log={"loggers": ["tensorboard(step=3)"]}, engine=cpu)


def test_a_logger_that_fails_is_a_warning_and_the_run_goes_on(tmp_path: Path) -> None:
    def fails(record: Record) -> None:
        seen.append(record["kind"])
        if record["kind"] == "step":
            raise OSError(28, "No space left on device")

    seen: list[str] = []

    @loggers.LOGGERS.register
    def failing(folder: Path, *, step: int | None = None) -> Sink:
        return fails

    try:
        with pytest.warns(
            loggers.LeftOutWarning, match="logger 'failing', which is told nothing more, failed .OSError"
        ):
            train(config(tmp_path, epochs=1, log={"loggers": ["failing"]}))
    finally:
        del loggers.LOGGERS._known["failing"]
    assert seen.count("step") == 1
    assert read(tmp_path / "journal.jsonl", "end")
