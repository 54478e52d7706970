"""How good are the outputs? Score and loss of the main prediction, of every head, and of all together."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deepsup import losses
from deepsup.datasets import Split
from deepsup.errors import ConfigError
from deepsup.evaluation.devices import forward, gathered, moved, share_buffers
from deepsup.evaluation.loaders import Batches, Loader, as_loader, inputs_of, samples_in
from deepsup.evaluation.search import How, embed, extractor, rankings, searched
from deepsup.evaluation.sliding_window import Forward
from deepsup.layers.wrappers import bare, chain
from deepsup.specs import is_number
from deepsup.supervision.attaching import supervised_in, supervising
from deepsup.supervision.objectives import Objective
from deepsup.tasks import TASKS, Counts, Task, task_of
from deepsup.tasks.outputs import classes_in, scores_of
from deepsup.tasks.reidentification import RE_IDENTIFICATION
from deepsup.tasks.task import Values, metrics_of
from deepsup.terms import TARGET

if TYPE_CHECKING:
    from lightning_fabric import Fabric


Score: TypeAlias = Callable[[Tensor, Any], Any]
"""A metric of one's own: from scores (N, C, ...) and a target to a number, the mean over the batch."""


class Mean(Counts):
    """The mean over samples of a number that a batch has."""

    def __init__(self, name: str, total: Any = 0.0, samples: int = 0) -> None:
        self.name, self.total, self.samples = name, total, samples

    @classmethod
    def of(cls, name: str, value: Any, samples: int) -> Mean:
        """A batch's number. Raises `ConfigError` for something else."""
        if not is_number(value) and not (isinstance(value, Tensor) and value.numel() == 1):
            raise ConfigError(f"metric '{name}' must return one number a batch; it returned {value!r:.80}.")
        return cls(name, value * samples, samples)

    def __add__(self, other: Any) -> Mean:
        return Mean(self.name, self.total + other.total, self.samples + other.samples)

    def cpu(self) -> Mean:
        return Mean(self.name, float(self.total), self.samples)

    def metrics(self) -> Values:
        return {self.name: float(self.total) / self.samples} if self.samples else {}


class Evaluation(NamedTuple):
    """How good each output is: `main`, each branch that predicts classes, and `ensemble`, the mean of their probabilities.

    `score` is the number that counts, by output, and `metric` its name; `metrics` are all numbers by output and name (None
    for one that nothing was counted for), and `counts` what they are made of, such as the matrix of label maps. `loss` is
    the mean by term: the outputs' own, and those between outputs such as `late<-main`.
    """

    score: dict[str, float]
    loss: dict[str, float]
    samples: int
    metric: str
    metrics: dict[str, Values]
    counts: dict[str, Counts]
    task: Task

    def record(self) -> dict[str, Any]:
        """What a journal says of them."""
        loss = {name: value for name, value in self.loss.items() if math.isfinite(value)}
        return {"score": self.score, "loss": loss, **self.task.record(self.counts, self.metrics)}


def evaluate(
    net: nn.Module,
    data: Split | Batches | Loader,
    *,
    objective: Objective | None = None,
    metric: str | Score | None = None,
    batch_size: int = 256,
    progress: float = 1.0,
    fabric: Fabric | None = None,
    run: Forward | None = None,
    how: How | None = None,
) -> Evaluation:
    """Score a supervised or plain net in eval mode, its heads included, and leave its train flags as they were.

    The net may be compiled, averaged (`AveragedModel`) or in DistributedDataParallel, whose own forward would wait for the
    other processes: then what is inside runs.

    The targets and what the outputs are decide the task (`deepsup.tasks`), and that the metric unless `metric` names another:
    label maps (N, H, W) are scored place by place, predictions enlarged to their size, by "mean IoU"; of class indices the
    accuracy over all that count; several labels by "mAP", real values by "R²". A metric of one's own is a function of
    (scores, target), the scores with their channels on axis 1, that gives a batch's number; its mean over samples counts,
    under the function's name. A split for re-identification is searched as a whole: all of `deepsup.tasks.retrieval`, by
    "mAP", and no loss, since nobody in it is a class; `how` it is. The loss of an output is the mean over all labelled
    samples or places, that of a term between outputs the mean over samples. With `fabric` each process scores its own
    batches, with the first one's buffers, and all get the metrics over all of them. `run` takes the place of `net(x)`, such
    as one that works in tiles; in a search it gives embeddings by output.

    Raises `ConfigError` for a metric that these targets do not have, `ClassCountError` for a label without a class.
    """
    target = supervised_in(net)
    objective = objective or Objective(target.plan if target else None)
    net = next((m.module for m in reversed(list(chain(net))) if isinstance(m, DistributedDataParallel)), net)
    device = fabric.device if fabric else next((p.device for p in net.parameters()), torch.device("cpu"))
    sums, images, how = Sums(objective, metric), searched(data), how or How()
    if images is not None:
        _check_of_search(metric)
    with torch.no_grad(), evaluating(net):
        if fabric:
            share_buffers(fabric, net)
        if images is not None:
            extract = partial(run, net) if run else partial(forward, extractor(net, how.layer), fabric=fabric)
            found = embed(images, extract, device=device, fabric=fabric)
            samples = int(found.split.queries.sum())
            counts = dict[str, Counts](rankings(found, how, fabric))
            return together([Share(RE_IDENTIFICATION, samples, {}, counts)], metric)
        for x, y in as_loader(data, batch_size, inputs=inputs_of(net), shuffle=False, device=device).epoch(0):
            x, y = moved(x, device), moved(y, device)
            sums.add(run(net, x) if run else forward(net, x, fabric), y, progress=progress)
    shares = gathered(fabric, sums.share()) if fabric else [sums.share()]
    return together(shares, metric)


def _check_of_search(metric: str | Score | None) -> None:
    """Raise `ConfigError` for a metric that a search does not have."""
    if callable(metric):
        raise ConfigError(
            f"metric '{_name(metric)}' reads scores batch by batch, and a search is scored as a whole. Name one of "
            f"{', '.join(metrics_of(RE_IDENTIFICATION, 0))}, or none."
        )
    TASKS[RE_IDENTIFICATION].check_metric(metric)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Eval mode with heads on; every module's own flag comes back, so a part the user froze in eval mode stays so.

    Several threads may do so at once: heads are on for each of them, and the last one to leave gives the flags back.
    """
    target = supervised_in(net)
    core = target or bare(net)
    with ExitStack() as stack:
        if target is not None:
            stack.enter_context(supervising(target, True))
        with _LOCK:
            held = _FLAGS.setdefault(core, _Flags())
            held.users += 1
            for module in net.modules():
                held.before.setdefault(module, module.training)
            net.eval()
        try:
            yield
        finally:
            with _LOCK:
                held.users -= 1
                if not held.users:
                    del _FLAGS[core]
                    for module, training in held.before.items():
                        module.training = training


@dataclass
class _Flags:
    """How many threads evaluate a net, and the train flags from before the first."""

    users: int = 0
    before: dict[nn.Module, bool] = field(default_factory=dict)


_FLAGS: dict[nn.Module, _Flags] = {}
_LOCK = threading.Lock()


class Share(NamedTuple):
    """What one process has summed: the task's name, by term the loss and what it counts, and what was counted by output."""

    task: str | None
    samples: int
    loss: dict[str, tuple[float, float]]
    counts: dict[str, Counts]


class Sums:
    """Sums over the batches, on the device until they are asked for."""

    def __init__(self, objective: Objective, metric: str | Score | None) -> None:
        self._objective, self._metric = objective, metric
        self._own = {edge.name: edge.loss for edge in objective.edges if edge.target == TARGET}
        self._task: Task | None = None
        self._samples = 0
        self._loss: dict[str, tuple[Any, Any]] = {}
        self._counts: dict[str, Counts] = {}

    def add(self, output: Any, y: Any, *, progress: float) -> None:
        """Count a batch."""
        terms = self._objective(output, y, progress=progress)
        goals = self._objective.targets(y)
        y, n = goals.main, samples_in(goals.main)
        self._samples += n
        given = self._objective.scores(output)
        for name, part in terms.parts.items():
            scores, own = given.get(name), None
            if name in self._own and isinstance(scores, Tensor) and scores.ndim > 1:
                own = losses.counted(self._own[name], scores, goals.of(name)[0][0], goals.mask)
            counted = n if own is None else own
            summed = own is not None and losses.option(self._own[name], "reduction", "mean") == "sum"
            weighted = part.float() if summed else part.float() * counted
            if isinstance(counted, Tensor):  # a mean over nothing is not a number
                weighted = torch.where(counted > 0, weighted, 0.0)
            _add(self._loss, name, weighted, counted)
        found = scores_of(output, self._objective)
        main = found["main"]
        if not isinstance(main, Tensor):  # a whole output, of which only its loss knows what it is
            return
        kind = self._objective.kind("main")
        if goals.mask is not None and kind == "values" and isinstance(y, Tensor):
            y = unmasked(y, goals.mask)
        self._task = self._task or task_of(y, kind, main.ndim - 2)
        if callable(self._metric):
            for name, scores in found.items():
                before = self._counts.get(name, Mean(_name(self._metric)))
                goal = y if goals.of(name)[0][0] is goals.main else goals.of(name)[0][0]
                self._counts[name] = before + Mean.of(_name(self._metric), self._metric(scores, goal), n)
            return
        self._task.check_metric(self._metric, classes_in(main))
        apart = {name for name in found if name != "main" and goals.of(name)[0][0] is not goals.main}
        self._task.add(self._counts, {n: s for n, s in found.items() if n not in apart}, y, self._objective)
        for name in apart:
            self._apart(name, found[name], goals.of(name)[0][0])

    def _apart(self, name: str, scores: Tensor, target: Any) -> None:
        """Count an output that has a target of its own."""
        assert self._task is not None
        if task_of(target, self._objective.kind(name), scores.ndim - 2) is self._task:
            own: dict[str, Counts] = {}
            self._task.add(own, {"main": scores}, target, self._objective)
            for counts in own.values():
                self._counts[name] = self._counts[name] + counts if name in self._counts else counts

    def share(self) -> Share:
        """Everything as plain numbers."""
        loss = {name: (float(value), float(weight)) for name, (value, weight) in self._loss.items()}
        counts = {name: counts.cpu() for name, counts in self._counts.items()}
        return Share(self._task.name if self._task else None, self._samples, loss, counts)


def unmasked(target: Tensor, mask: Tensor) -> Tensor:
    """Values (N, ...) with NaN, which does not count, where a mask is 0."""
    values = target if target.is_floating_point() else target.double()
    lone = mask.ndim == values.ndim - 1
    return values.masked_fill((mask.unsqueeze(1) if lone else mask).to(torch.bool).logical_not(), math.nan)


def _name(metric: Score) -> str:
    return str(getattr(metric, "__name__", type(metric).__name__))


def _add(sums: dict[str, tuple[Any, Any]], name: str, value: Any, weight: Any) -> None:
    before = sums.get(name)
    sums[name] = (value, weight) if before is None else (before[0] + value, before[1] + weight)


def together(shares: list[Share], metric: str | Score | None) -> Evaluation:
    """What all processes have counted."""
    loss: dict[str, tuple[float, float]] = {}
    counts: dict[str, Counts] = {}
    for share in shares:
        for name, (value, weight) in share.loss.items():
            _add(loss, name, value, weight)
        for name, own in share.counts.items():
            counts[name] = counts[name] + own if name in counts else own
    task = TASKS[next((share.task for share in shares if share.task), "classification")]
    metric = _name(metric) if callable(metric) else metric or task.metric
    every = {name: found for name, own in counts.items() if (found := own.metrics())}
    score = {name: number for name, found in every.items() if (number := found[metric]) is not None}
    return Evaluation(
        score=score,
        loss={name: value / weight for name, (value, weight) in loss.items() if weight},
        samples=sum(share.samples for share in shares),
        metric=metric,
        metrics=every,
        counts={name: counts[name] for name in every},
        task=task,
    )
