"""How good are the outputs? Score and loss of the main prediction, of every head, and of all together."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deepsup.datasets import Split
from deepsup.evaluation.devices import forward, gathered, share_buffers
from deepsup.evaluation.loaders import Batches, Feed, feed, samples_in
from deepsup.evaluation.sliding_window import Forward
from deepsup.layers.wrappers import bare, chain
from deepsup.supervision.attaching import supervised_in, supervising
from deepsup.supervision.objectives import Objective
from deepsup.tasks import TASKS, Counts, Task, task_of
from deepsup.tasks.outputs import classes_in, ignored, scores_of
from deepsup.tasks.task import Values
from deepsup.terms import TARGET

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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
    data: Split | Batches | Feed,
    *,
    objective: Objective | None = None,
    metric: str | None = None,
    batch_size: int = 256,
    progress: float = 1.0,
    fabric: Fabric | None = None,
    run: Forward | None = None,
) -> Evaluation:
    """Score a supervised or plain net in eval mode, its heads included, and leave its train flags as they were.

    The net may be compiled, averaged (`AveragedModel`) or in DistributedDataParallel, whose own forward would wait for the
    other processes: then what is inside runs.

    The targets decide the task (`deepsup.tasks`), and that the metric unless `metric` names another: label maps (N, H, W)
    are scored place by place, predictions enlarged to their size, by "mean IoU"; of other class indices the accuracy over
    all with a label of 0 or more counts; other targets have none. The loss of an output is the mean over all labelled
    samples or places, that of a term between outputs the mean over samples. With `fabric` each process scores its own
    batches, with the first one's buffers, and all get the metrics over all of them. `run` takes the place of `net(x)`, such
    as one that works in tiles.

    Raises `ConfigError` for a metric that these targets do not have, `ClassCountError` for a label without a class.
    """
    target = supervised_in(net)
    objective = objective or Objective(target.plan if target else None)
    net = next((m.module for m in reversed(list(chain(net))) if isinstance(m, DistributedDataParallel)), net)
    device = fabric.device if fabric else next((p.device for p in net.parameters()), torch.device("cpu"))
    sums = Sums(objective, metric)
    with torch.no_grad(), evaluating(net):
        if fabric:
            share_buffers(fabric, net)
        for x, y in feed(data, batch_size, shuffle=False, device=device).epoch(0):
            x, y = (v.to(device) if isinstance(v, Tensor) else v for v in (x, y))
            sums.add(run(net, x) if run else forward(net, x, fabric), y, progress=progress)
    shares = gathered(fabric, sums.share()) if fabric else [sums.share()]
    return together(shares, metric)


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

    def __init__(self, objective: Objective, metric: str | None) -> None:
        self._objective, self._metric = objective, metric
        self._own = {edge.name for edge in objective.edges if edge.target == TARGET}
        self._ignored = ignored(objective)
        self._task: Task | None = None
        self._samples = 0
        self._loss: dict[str, tuple[Any, Any]] = {}
        self._counts: dict[str, Counts] = {}

    def add(self, output: Any, y: Any, *, progress: float) -> None:
        """Count a batch."""
        terms = self._objective(output, y, progress=progress)
        n = samples_in(y)
        self._samples += n
        labelled = self._labelled(y)
        for name, part in terms.parts.items():
            counted = n if labelled is None or name not in self._own else labelled
            weighted = part.float() * counted
            if isinstance(counted, Tensor):  # a mean over nothing is not a number
                weighted = torch.where(counted > 0, weighted, 0.0)
            _add(self._loss, name, weighted, counted)
        found = scores_of(output, self._objective)
        self._task = self._task or task_of(y)
        self._task.check_metric(self._metric, classes_in(found["main"]))
        self._task.add(self._counts, found, y, self._objective)

    def _labelled(self, y: Any) -> Tensor | None:
        """How many samples, or places, have a label; None where a target has no class indices."""
        if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or not y.ndim:
            return None
        y = y.long()  # -100 is 156 in a byte
        counted: Tensor = ((y >= 0) & (y != self._ignored)).sum()
        return counted

    def share(self) -> Share:
        """Everything as plain numbers."""
        loss = {name: (float(value), float(weight)) for name, (value, weight) in self._loss.items()}
        counts = {name: counts.cpu() for name, counts in self._counts.items()}
        return Share(self._task.name if self._task else None, self._samples, loss, counts)


def _add(sums: dict[str, tuple[Any, Any]], name: str, value: Any, weight: Any) -> None:
    before = sums.get(name)
    sums[name] = (value, weight) if before is None else (before[0] + value, before[1] + weight)


def together(shares: list[Share], metric: str | None) -> Evaluation:
    """What all processes have counted."""
    loss: dict[str, tuple[float, float]] = {}
    counts: dict[str, Counts] = {}
    for share in shares:
        for name, (value, weight) in share.loss.items():
            _add(loss, name, value, weight)
        for name, own in share.counts.items():
            counts[name] = counts[name] + own if name in counts else own
    task = TASKS[next((share.task for share in shares if share.task), "classification")]
    metric = metric or task.metric
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
