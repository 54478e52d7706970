"""Where the records of a run go beside its journal: loggers by name, for `deepsup.fit` and `deepsup train` alike.

A logger is one function of the run's folder that returns what takes each record. Its keyword-only parameters are options
of the text that names it (`log.loggers: [tensorboard]`), but for `step`: the one that a resumed run goes on from.
"""

from __future__ import annotations

import csv as csv_files
import importlib
import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepsup import ownership
from deepsup.errors import ConfigError, stacklevel
from deepsup.files import write_atomically
from deepsup.settings.section import flattened
from deepsup.settings.training import LogConfig
from deepsup.specs import Registry, require
from deepsup.training.journal import Record, Sink


class LeftOutWarning(UserWarning):
    """Something beside a run failed, a picture or a logger; the run is as it would have been."""


LOGGERS = Registry[Callable[..., Sink]]("logger", ConfigError, hidden={"step"})


def named(log: LogConfig) -> tuple[str, ...]:
    """The loggers that settings ask for. Raises `ConfigError` for one that is not known, or an option it does not have."""
    asked = (*(("tensorboard",) if log.tensorboard else ()), *log.loggers)
    for text in asked:
        LOGGERS.read(text)
    return tuple(dict.fromkeys(asked))


def sinks(log: LogConfig, folder: Path | None, *, step: int | None = None) -> tuple[Sink, ...]:
    """What the loggers take records with; `step` is the one that a resumed run goes on from, None for a new run.

    Raises `ConfigError` as `named` does and where there is no folder to write to, `MissingPackageError` for a package.
    """
    found: list[Sink] = []
    for text in named(log):
        name, options = LOGGERS.read(text)
        if folder is None:
            raise ConfigError(f"logger '{name}' writes into the run's folder, and there is none. Give folder=.")
        found.append(guarded(LOGGERS[name](folder, step=step, **options), f"logger '{name}'"))
    return tuple(found)


@contextmanager
def beside(what: str) -> Iterator[None]:
    """What is done beside a run: where it fails there is a warning."""
    try:
        yield
    except Exception as error:
        told = f"{what} failed ({type(error).__name__}: {error}). The run is as it would have been."
        warnings.warn(told, LeftOutWarning, stacklevel=stacklevel())


def guarded(sink: Sink, what: str) -> Sink:
    """A sink that falls silent where it fails, with a warning: nobody loses a run for what looks on."""
    done = False

    def write(record: Record) -> None:
        nonlocal done
        if not done:
            done = True
            with beside(f"{what}, which is told nothing more,"):
                sink(record)
                done = False

    return write


@LOGGERS.register
def tensorboard(folder: Path, *, step: int | None = None) -> Sink:
    """TensorBoard scalars in `folder/tensorboard`; events after `step` are void."""
    require("tensorboard", purpose="log.tensorboard", install="deepsup[tensorboard]")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(at: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, at)
        if any(name.startswith("validation") for name in values):
            writer.flush()

    return _numbers(write, end=writer.close)


@LOGGERS.register
def csv(folder: Path, *, step: int | None = None) -> Sink:
    """Rows of `step,name,value` in `folder/metrics.csv`; those after `step` are written anew."""
    ownership.refuse_foreign(folder, ["metrics.csv"])
    ownership.claim(folder, ["metrics.csv"])
    path, kept = folder / "metrics.csv", []
    if step is not None and path.exists():
        whole = path.read_text("utf-8")
        rows = list(csv_files.reader(whole[: whole.rfind("\n") + 1].splitlines()))[1:]
        kept = [row for row in rows if len(row) == 3 and int(row[0]) <= step]
    there = {(row[0], row[1]) for row in kept}

    def write_all(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv_files.writer(file, lineterminator="\n").writerows([("step", "name", "value"), *kept])

    write_atomically(path, write_all)

    def write(at: int, values: dict[str, float]) -> None:
        new = [(at, name, value) for name, value in values.items() if (str(at), name) not in there]
        with path.open("a", newline="", encoding="utf-8") as file:
            csv_files.writer(file, lineterminator="\n").writerows(new)

    return _numbers(write)


@LOGGERS.register
def wandb(folder: Path, *, step: int | None = None, project: str = "deepsup", mode: str = "offline") -> Sink:
    """Weights & Biases, kept in `folder/wandb` until `wandb sync`; `mode='online'` sends it. A resumed run goes on in its own."""
    require("wandb", purpose="logger 'wandb'", install="deepsup[wandb]")
    library = importlib.import_module("wandb")
    name = _own_name(folder / "wandb" / "deepsup_id", step, secrets.token_hex(4))
    quiet = library.Settings(console="off", silent=True, x_disable_stats=True)
    run = library.init(
        project=project, name=folder.name, id=name, dir=str(folder), mode=mode, resume="allow", settings=quiet
    )
    return _numbers(
        lambda at, values: run.log(values, step=at),
        begin=lambda told: run.config.update(told, allow_val_change=True),
        end=lambda: run.finish(),
    )


@LOGGERS.register
def mlflow(folder: Path, *, step: int | None = None, uri: str | None = None, experiment: str = "deepsup") -> Sink:
    """MLflow, at `uri`, else `MLFLOW_TRACKING_URI`, else files in `folder/mlflow`. A resumed run goes on in its own."""
    require("mlflow", purpose="logger 'mlflow'", install="deepsup[mlflow]")
    local = f"file:{(folder / 'mlflow').resolve()}"
    where = uri or os.environ.get("MLFLOW_TRACKING_URI") or local
    if where == local:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which it asks for since version 3.9
    client = importlib.import_module("mlflow").MlflowClient(tracking_uri=where)
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    begun = _own_name(folder / "mlflow" / "deepsup_id", step, None)
    run = begun or _own_name(
        folder / "mlflow" / "deepsup_id", None, client.create_run(number, run_name=folder.name).info.run_id
    )
    last = {n: max(m.step for m in client.get_metric_history(run, n)) for n in client.get_run(run).data.metrics}

    def write(at: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            key = re.sub(r"[^\w. :/-]", "_", name)  # what it takes
            if at > last.get(key, -1):
                client.log_metric(run, key, value, step=at)

    return _numbers(
        write,
        begin=lambda told: [client.set_tag(run, f"config.{key}", str(value)) for key, value in told.items()],
        end=lambda: client.set_terminated(run),
    )


def _own_name(file: Path, step: int | None, new: str | None) -> str:
    """What a library calls this run: what is in the file where one goes on from `step`, else the new one, which is kept there."""
    if step is not None and file.is_file():
        return file.read_text("utf-8").strip()
    if new is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda temporary: temporary.write_text(new + "\n", "utf-8"))
    return new or ""


def _numbers(
    write: Callable[[int, dict[str, float]], object],
    *,
    begin: Callable[[dict[str, Any]], object] = lambda told: None,
    end: Callable[[], object] = lambda: None,
) -> Sink:
    """A sink that hands on the numbers of each record with their step, the settings first, and says when it is over."""
    told = {"metric": "score"}

    def sink(record: Record) -> None:
        if "metric" in record:
            told["metric"] = record["metric"]
        if record["kind"] == "start":
            begin(dict(flattened(record["config"])))
        if values := scalars(record, metric=told["metric"]):
            write(record["step"], values)
        if record["kind"] in ("stop", "end"):
            end()

    return sink


def scalars(record: Record, *, metric: str = "score") -> dict[str, float]:
    """The numbers of a step or epoch record by the name TensorBoard shows them under; `metric` is what the score is called."""
    if record["kind"] == "step":
        losses = {"total": record["total"], **record["parts"]}
        groups = {"loss": losses, "weight": record["weights"], "lr": {"model": record["lr"]}}
    elif record["kind"] == "epoch":
        validation = record["validation"] or {}
        groups = {f"validation {metric}": validation.get("score", {}), "validation loss": validation.get("loss", {})}
        for output, found in validation.get("scores", {}).items():
            for name, value in found.items():
                groups.setdefault(f"validation {name}", {})[output] = value
    elif record["kind"] == "gradients":
        groups = {"gradient": record["layers"]}
    else:
        groups = {}
    return {f"{group}/{n}": v for group, values in groups.items() for n, v in values.items() if v is not None}
