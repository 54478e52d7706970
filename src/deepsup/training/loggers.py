"""Where the records of a run go beside its journal: loggers by name, for `deepsup.fit` and `deepsup train` alike.

A logger is one function of the run's folder that returns what takes each record. Its keyword-only parameters are options
of the text that names it (`log.loggers: [tensorboard]`), but for `step`: the one that a resumed run goes on from.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deepsup.errors import ConfigError, stacklevel
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
    told = {"metric": "score"}

    def write(record: Record) -> None:
        if "metric" in record:
            told["metric"] = record["metric"]
        for name, value in scalars(record, metric=told["metric"]).items():
            writer.add_scalar(name, value, record["step"])
        if record["kind"] in ("epoch", "stop", "end"):
            writer.flush()
        if record["kind"] in ("stop", "end"):
            writer.close()

    return write


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
