"""What the training loop is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from deepsup import specs
from deepsup.evaluation import devices
from deepsup.evaluation.loaders import Loader
from deepsup.evaluation.search import How
from deepsup.evaluation.sliding_window import Forward
from deepsup.settings.training import CheckpointConfig, LogConfig, StepConfig
from deepsup.supervision.attaching import Supervised
from deepsup.supervision.objectives import Objective
from deepsup.tasks import shown
from deepsup.training.journal import Record, Sink
from deepsup.training.mixing import Mixing


class FitResult(NamedTuple):
    """What came of a run: `score` of the main output after the last epoch, `history` the epoch records.

    `metric` is the name of the score: `accuracy`, `mean IoU`, ...; `best_epoch` the one with `best_score`, counted from 1.
    """

    step: int
    epochs: int
    score: float | None
    best_score: float | None
    metric: str
    seconds: float
    step_ms: float | None
    history: list[Record]
    journal: Path | None
    best_epoch: int | None = None

    def __str__(self) -> str:
        best = shown(self.metric, self.score if self.best_score is None else self.best_score)
        scores = f"{self.metric} {shown(self.metric, self.score)}, best {best}; " if self.score is not None else ""
        epochs, steps = specs.counted(self.epochs, "epoch"), specs.counted(self.step, "step")
        return f"{epochs}, {steps} in {self.seconds:.1f} s; {scores}journal: {self.journal}"


@dataclass(frozen=True)
class Job:
    """Everything the loop needs; `fit` and `train` differ only in where they get it from.

    `folder` (None: keep nothing) receives `journal.jsonl` and `checkpoint.ckpt`. `start` goes into the journal's first
    record. `opening` are records written right after it, and `finish` is called before the journal's last one. `metric`
    is the score that counts (None: by the targets), and `run` takes the place of `net(x)` in validation, which follows every
    so many epochs (`validate_every`) and the last; `patience` is after
    how many without a better score a run ends; `how` is what a search does.
    """

    net: nn.Module
    objective: Objective
    train: Loader
    optimizer: Optimizer
    epochs: int
    validation: Loader | None = None
    schedule: Callable[[float], float] | None = None
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    step: StepConfig = field(default_factory=StepConfig)
    mix: Mixing | None = None
    compile: bool | str = False
    channels_last: bool = False
    folder: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    metric: str | None = None
    opening: tuple[Record, ...] = ()
    sinks: tuple[Sink, ...] = ()
    finish: Callable[[], None] | None = None
    run: Forward | None = None
    forward: devices.Run = devices.called
    validate_every: int = 1
    patience: int | None = None
    how: How = field(default_factory=How)

    @property
    def plan(self) -> dict[str, Any] | None:
        """The plan of a supervised net, as plain values."""
        return self.net.plan.to_dict() if isinstance(self.net, Supervised) else None
