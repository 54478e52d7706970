"""What a journal holds, as typed records: one class a kind of line, and the run that they make together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ACCURACY: Final = "accuracy"
"""The name of the score in journals from before scores had names."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """Mean |gradient| of every weight-bearing layer at one optimiser step, in model order."""

    step: int
    layers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Step:
    """One logged optimiser step: the losses before weighting, and the weights they had."""

    step: int
    progress: float
    total: float
    parts: Mapping[str, float]
    weights: Mapping[str, float]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Step:
        """Read a journal's record."""
        return cls(
            step=int(record["step"]),
            progress=float(record["progress"]),
            total=number(record.get("total")),
            parts=numbers(record.get("parts")),
            weights=numbers(record.get("weights")),
        )


@dataclass(frozen=True, slots=True)
class Pull:
    """How one branch's gradient met what comes down from above it, over some steps; nan where nothing was measured."""

    cosine: float  # mean: 1 the same direction, below 0 against each other
    ratio: float  # strength of the branch over strength of what comes from above, geometric mean
    kept: float  # mean share of what comes from above that is left in what goes on down: 1 unhurt
    share: float  # of these steps, those with a cosine below 0
    met: int = 0  # in how many steps it was measured

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Pull:
        """Read what a record says of one branch."""
        read = values.get  # a long journal has a hundred thousand of these
        means = number(read("cosine")), number(read("ratio")), number(read("kept")), number(read("share"))
        return cls(*means, met=int(read("met") or 0))


@dataclass(frozen=True, slots=True)
class Conflict:
    """The pull of every branch over the last `steps` optimiser steps, up to `step`.

    `parameters` holds the cosines at the shared parameters by branch, of the steps in which they were looked at.
    """

    step: int
    progress: float
    steps: int
    branches: Mapping[str, Pull]
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Conflict:
        """Read a journal's record."""
        branches = {str(branch): Pull.of(values) for branch, values in record["branches"].items()}
        sampled: dict[str, list[float]] = {}
        for sample in record.get("parameters", ()):
            for branch, values in sample.items():
                if isinstance(values, Mapping):
                    sampled.setdefault(branch, []).append(number(values.get("cosine")))
        return cls(int(record["step"]), float(record["progress"]), int(record.get("steps") or 1), branches, sampled)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One finished epoch, counted from 1; seconds are training only.

    `score` is the number that counts, by output, a fraction in [0, 1]; `scores` are all numbers of label maps by output
    and name.
    """

    epoch: int
    step: int
    score: Mapping[str, float]
    loss: Mapping[str, float]
    seconds: float
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Epoch:
        """Read a journal's record; before scores had names they stood under `accuracy`."""
        validation = record.get("validation") or {}
        return cls(
            epoch=int(record["epoch"]),
            step=int(record["step"]),
            score=numbers(validation.get("score", validation.get(ACCURACY))),
            loss=numbers(validation.get("loss")),
            seconds=float(record.get("seconds") or 0.0),
            scores=_of_maps(validation),
        )


@dataclass(frozen=True, slots=True)
class End:
    """How a finished run ended. Scores are fractions in [0, 1]; `step_ms` is a median, `peak_bytes` a GPU's."""

    step: int
    epochs: int
    score: float
    best_score: float
    seconds: float
    step_ms: float
    peak_bytes: float = math.nan

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> End:
        """Read a journal's record; before scores had names it was the `accuracy`."""
        score = number(record[ACCURACY] if ACCURACY in record else record["score"])
        return cls(
            step=int(record["step"]),
            epochs=int(record["epochs"]),
            score=score,
            best_score=number(record.get("best_score", record.get("best_accuracy", score))),
            seconds=number(record.get("seconds")),
            step_ms=number(record.get("step_ms")),
            peak_bytes=number(record.get("peak_bytes")),
        )


@dataclass(frozen=True, slots=True)
class Run:
    """Everything one journal says, with the records that a resumed run overwrote already dropped.

    `stop` is the reason a run gave up (a non-finite loss, say); a run with neither `end` nor `stop` was interrupted.
    `findings` are what the doctor said before training (None: it was not asked), `placement` the record of that name,
    `saved_bytes` what a step keeps for its backward, `metric` the name of the score that counts.
    """

    path: Path
    name: str
    group: str
    arm: str
    seed: int | None
    config: Mapping[str, Any]
    plan: Mapping[str, Any] | None
    environment: Mapping[str, Any]
    cost: Mapping[str, Any]
    planned: int | None = None  # epochs
    metric: str = ACCURACY
    images: int | None = None  # that the score is measured on
    gradients: tuple[Gradients, ...] = ()
    steps: tuple[Step, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    findings: tuple[Mapping[str, Any], ...] | None = None
    placement: Mapping[str, Any] | None = None
    saved_bytes: float = math.nan
    resumed: tuple[int, ...] = ()
    stop: str | None = None
    end: End | None = None

    @property
    def finished(self) -> bool:
        """Whether the run reached its last step."""
        return self.end is not None

    @property
    def seconds(self) -> float:
        """Training seconds, of the epochs so far if the run has not finished."""
        return self.end.seconds if self.end else sum(epoch.seconds for epoch in self.epochs)

    def epochs_to(self, score: float) -> int | None:
        """Return the first epoch whose main output has at least this score (a fraction), or None."""
        return next((e.epoch for e in self.epochs if e.score.get("main", -math.inf) >= score), None)


def _of_maps(validation: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Read all scores of label maps by output; empty for classes.

    `IoU: 3` is that of class 3, `confusion: 0: 1` are the counts of class 0 taken for class 1.
    """
    found: dict[str, dict[str, float]] = {}
    for output, values in (validation.get("scores") or {}).items():
        more = {
            name: (validation.get(key) or {}).get(output) for name, key in (("IoU", "iou"), ("confusion", "confusion"))
        }
        if validation.get("threshold") is not None:
            more = {"threshold": validation["threshold"], **more}
        found[str(output)] = flat({**values, **{name: part for name, part in more.items() if part is not None}})
    return found


def number(value: Any) -> float:
    """Read a float; null stands for a value that JSON has no word for (nan, infinity)."""
    return math.nan if value is None else float(value)


def numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    """Read floats by name."""
    return {str(name): number(value) for name, value in (values or {}).items()}


def flat(values: Mapping[Any, Any]) -> dict[str, float]:
    """Read floats by name; a name that stands for several (`{"IoU": {"road": 0.9}}`) gives `IoU: road`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        parts = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(parts, Mapping):
            found |= {f"{name}: {part}": one for part, one in flat(parts).items()}
        else:
            found[str(name)] = number(parts)
    return found
