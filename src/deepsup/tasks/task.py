"""What every task has in common, and the two tables that tasks write themselves into: `TASKS` and `METRICS`.

A new task is one new file beside this one: a class below `@register`, and its metrics below `@metric`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from torch import Tensor

from deepsup import losses, ownership, predictions
from deepsup.errors import ConfigError
from deepsup.predictions import Word
from deepsup.specs import closest
from deepsup.supervision.objectives import Objective

Values: TypeAlias = dict[str, float | None]
"""Metrics by name: fractions, 1 is perfect; None is one that nothing was counted for."""


@dataclass(frozen=True)
class Metric:
    """A number that says how good an output is: at most 1, the more the better, unless it is an error (`lower`)."""

    name: str
    task: str
    says: str  # completes "mean IoU is ..."
    digits: int  # of a percent, as its articles print it
    of_two: bool  # for two classes alone
    function: Callable[..., Any]
    lower: bool = False  # the lower, the better
    plain: bool = False  # a number in the unit of the data or of no unit, not a share to be written in percent


METRICS: dict[tuple[str, str], Metric] = {}
"""Every metric by its task and name, in the order in which they are written. Of one name all are written alike."""

F = TypeVar("F", bound=Callable[..., Any])


def metric(
    name: str,
    says: str,
    *,
    task: str,
    digits: int = 2,
    of_two: bool = False,
    lower: bool = False,
    plain: bool = False,
) -> Callable[[F], F]:
    """Register what is counted by the decorated function, which stays as it is.

    Raises `ConfigError` where another task writes a metric of this name in another way: journals know names alone.
    """

    def registered(function: F) -> F:
        made, other = Metric(name, task, says, digits, of_two, function, lower, plain), named(name)
        if other and (other.digits, other.lower, other.plain) != (digits, lower, plain):
            raise ConfigError(f"{task} writes {name!r} in another way than {other.task}. Give it another name.")
        METRICS[task, name] = made
        return function

    return registered


def named(name: str, task: str | None = None) -> Metric | None:
    """The metric of a task, or of whichever has one of this name; None where there is none."""
    if task is not None:
        return METRICS.get((task, name))
    return next((one for one in METRICS.values() if one.name == name), None)


def metrics_of(task: str, classes: int) -> tuple[str, ...]:
    """The names of the metrics that so many classes have."""
    return tuple(m.name for m in METRICS.values() if m.task == task and (classes == 2 or not m.of_two))


class Counts(ABC):
    """What is counted of one output, batch by batch, until its metrics are asked for; the counts of processes add up."""

    @abstractmethod
    def __add__(self, other: Any) -> Counts:
        """Both together."""

    @abstractmethod
    def cpu(self) -> Counts:
        """The counts on the CPU, to be sent to another process."""

    @abstractmethod
    def metrics(self) -> Values:
        """Every metric by name; empty where nothing had a label."""


class Said(NamedTuple):
    """What was predicted of one image: files that were written, by output its class and how probable it is, or numbers; of
    one that could not be read nothing but the `problem`.
    """

    image: Path
    files: tuple[Path, ...]
    classes: dict[str, tuple[str, float]]
    told: Mapping[str, str] = {}  # numbers by output, in words
    problem: str = ""


class Writer(ABC):
    """Writes what a trained net says of new images into a folder, one image after the other."""

    def __init__(
        self, folder: Path, objective: Objective, *, classes: tuple[str, ...], palette: Any, branches: bool
    ) -> None:
        self.folder, self.objective, self.classes, self.palette = folder, objective, classes, palette
        self.branches = branches
        self._put: dict[str, bytes] = {}

    def wanted(self, output: str) -> bool:
        """Whether this output is asked for."""
        return self.branches or output == "main"

    def kept(self, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What is kept of the outputs of a part of a file until all of it has been seen, samples on the first axis."""
        return found

    def put(self, name: str, data: bytes) -> Path:
        """Let a file come into the folder with the next `flush`."""
        self._put[name] = data
        return self.folder / name

    def flush(self) -> None:
        """Write what was put. Raises `ConfigError` where another file than ours has its name."""
        ownership.write_all(self.folder, self._put)
        self._put.clear()

    @abstractmethod
    def write(self, name: str, image: Path, original: Tensor, found: Mapping[str, Tensor]) -> Said:
        """Write what the outputs' raw scores `found` say of an image, whose pixels are `original` (H, W, 3)."""


class Task(ABC):
    """One kind of labels: which targets are meant, what is counted, and what is kept of predictions."""

    name: ClassVar[str]
    targets: ClassVar[str]  # what a target is, as errors call it
    labelled: ClassVar[str]  # what an image has, as errors say it: "a label a pixel"
    metric: ClassVar[str]  # the one that counts unless another is named
    word: ClassVar[Word]  # what `plan(task=name)` says of a model's output
    options: ClassVar[frozenset[str]] = frozenset()  # settings of `data` that other tasks lack
    whole_images: ClassVar[bool] = False  # whether images keep their shape when they are resized
    writer: ClassVar[type[Writer] | None] = None  # what writes predictions of new images

    @abstractmethod
    def takes(self, target: Any, kind: str, places: int | None) -> bool:
        """Whether a target is of this task, for an output of this kind (`predictions.KINDS`) with so many axes of places,
        None where that is not known yet.
        """

    @abstractmethod
    def add(self, counts: dict[str, Any], found: dict[str, Tensor], target: Tensor, objective: Objective) -> None:
        """Count a batch into `counts`, by output; `found` are raw scores (N, C, ...) by output."""

    def check_metric(self, name: str | None, classes: int = 2) -> None:
        """Raise `ConfigError` for a metric that so many classes do not have."""
        known = metrics_of(self.name, classes)
        if name is None or name in known:
            return
        more = [one for one in metrics_of(self.name, 2) if one not in known]
        two = f" With two classes also: {', '.join(more)}." if more else ""
        found = named(name)
        other = f" {name!r} is of {TASKS[found.task].targets}." if found and found.task != self.name else ""
        raise ConfigError(
            f"{self.targets} of {classes} classes have no metric {name!r}.{closest(name, known)} They have: "
            f"{', '.join(known)}.{two}{other}"
        )

    def check_options(self, given: Iterable[str], *, of: str) -> None:
        """Raise `ConfigError` for settings of `data` that are of another task; `of` is the name of the data set."""
        for other in TASKS.values():
            wrong = [option for option in given if option in other.options and option not in self.options]
            if wrong:
                raise ConfigError(
                    f"{', '.join(wrong)}: not for {of}, which has {self.labelled}. Take it out: data.{wrong[0]} is for "
                    f"{other.labelled}."
                )

    def channels(self, classes: int, loss: str | losses.Loss) -> int:
        """How many scores the main output has for so many classes, trained with such a loss."""
        return classes

    def record(self, counts: Mapping[str, Any], metrics: Mapping[str, Values]) -> dict[str, Any]:
        """What a journal says of an epoch besides the metric that counts."""
        return {}

    def save(  # noqa: B027
        self, folder: Path, split: Any, objective: Objective, run: Callable[[Tensor], Any], *, metric: str
    ) -> None:
        """Keep in a finished run's folder what its report shows of the validation split; `run` gives a batch's output."""


TASKS: dict[str, Task] = {}
"""Every task by name."""

T = TypeVar("T", bound=type[Task])


def register(task: T) -> T:
    """Make a task known by its name, to `plan` as well."""
    TASKS[task.name], predictions.TASKS[task.name] = task(), task.word
    return task


def task_of(target: Any, kind: str = "class", places: int | None = None) -> Task:
    """The task that takes such targets; classification, which then counts nothing, where there is none."""
    return next((task for task in TASKS.values() if task.takes(target, kind, places)), TASKS["classification"])


def is_share(name: str) -> bool:
    """Whether a score of this name is a share of 1, which is written in percent; of a name of one's own it is taken for one."""
    found = named(name)
    return found is None or not found.plain


def better(name: str, one: float, other: float | None) -> bool:
    """Whether a score is better than another of the same metric, or there is no other."""
    found = named(name)
    return other is None or (one < other if found and found.lower else one > other)


def shown(name: str, score: float | None, *, digits: int = 1) -> str:
    """A score in a line of text: a percentage, or a number where it is no share."""
    if score is None:
        return "-"
    return f"{score:.{digits}%}" if is_share(name) else f"{score:.4g}"
