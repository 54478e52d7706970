"""How good are the outputs? Score and loss of the main prediction, of every head, and of all together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from deepsup.datasets import Split
from deepsup.errors import ConfigError
from deepsup.evaluation.devices import forward, gathered, share_buffers
from deepsup.evaluation.loaders import Batches, Feed, feed, samples_in
from deepsup.evaluation.predictions import Forward as Forward
from deepsup.evaluation.predictions import (
    answers,
    are_maps,
    classes_in,
    ignored,
    is_label_map,
    predictions,
    with_ensemble,
)
from deepsup.supervision.attaching import Supervised, supervising
from deepsup.supervision.objectives import Objective
from deepsup.tasks import segmentation
from deepsup.tasks.segmentation import Counts
from deepsup.terms import TARGET

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ACCURACY = "accuracy"


class Scores(NamedTuple):
    """How good each output is: `main`, each branch that predicts classes, and `ensemble`, the mean of their probabilities.

    `score` is the number that counts, by output, and `metric` its name. `loss` is the mean by term: the outputs' own, and
    those between outputs such as `late<-main`. Of label maps, `scores` are all numbers by output and name (module
    `deepsup.tasks.segmentation`; None for one that nothing was counted for) and `confusion` the counts [truth][prediction]; the
    class of a place is the one with the highest score, of a single channel the second from a probability of 0.5 on.
    """

    score: dict[str, float]
    loss: dict[str, float]
    samples: int
    metric: str
    scores: dict[str, dict[str, float | None]]
    confusion: dict[str, list[list[int]]]

    def record(self) -> dict[str, Any]:
        """What a journal says of them: of maps also the intersection over union of every class, and for two the counts."""
        found: dict[str, Any] = {"score": self.score, "loss": self.loss}
        if self.scores:
            found |= {"scores": self.scores, "iou": {n: segmentation.iou(m) for n, m in self.confusion.items()}}
        two = {name: matrix for name, matrix in self.confusion.items() if len(matrix) == 2}
        return found | ({"confusion": two, "threshold": segmentation.THRESHOLD} if two else {})


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
) -> Scores:
    """Score a supervised or plain net in eval mode, its heads included, and leave its train flags as they were.

    Targets that are label maps (N, H, W) are scored place by place, predictions enlarged to their size, by `metric`:
    "mean IoU" or another of `deepsup.tasks.segmentation.offered`. Of other class indices the score is the accuracy over all with
    a label of 0 or more; other targets have none. The loss of an output is the mean over all labelled samples or places,
    that of a term between outputs the mean over samples. With `fabric` each process scores its own batches, with the first
    one's buffers, and all get the scores over all of them. `run` takes the place of `net(x)`, such as one that works in tiles.

    Raises `ConfigError` for a metric that these targets do not have, `ClassCountError` for a label without a class.
    """
    objective = objective or Objective(net.plan if isinstance(net, Supervised) else None)
    device = fabric.device if fabric else next((p.device for p in net.parameters()), torch.device("cpu"))
    sums = _Sums(objective, metric)
    with torch.no_grad(), evaluating(net):
        if fabric:
            share_buffers(fabric, net)
        for x, y in feed(data, batch_size, shuffle=False, device=device).epoch(0):
            x, y = (v.to(device) if isinstance(v, Tensor) else v for v in (x, y))
            sums.add(run(net, x) if run else forward(net, x, fabric), y, progress=progress)
    shares = gathered(fabric, sums.share()) if fabric else [sums.share()]
    return _scores(shares, metric)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Eval mode with heads on; every module's own flag comes back, so a part the user froze in eval mode stays so."""
    flags = [(m, m.training) for m in net.modules()]
    with ExitStack() as stack:
        if isinstance(net, Supervised):
            stack.enter_context(supervising(net, True))
        net.eval()
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training


class _Share(NamedTuple):
    """What one process has summed: by term the loss and what it counts, by output what was right, and counts of maps."""

    samples: int
    loss: dict[str, tuple[float, float]]
    right: dict[str, tuple[float, float]]
    maps: dict[str, Counts]


class _Sums:
    """Sums over the batches, on the device until they are asked for."""

    def __init__(self, objective: Objective, metric: str | None) -> None:
        self._objective, self._metric = objective, metric
        self._own = {edge.name for edge in objective.edges if edge.target == TARGET}
        self._ignored = ignored(objective)
        self._samples = 0
        self._loss: dict[str, tuple[Any, Any]] = {}
        self._right: dict[str, tuple[Any, Any]] = {}
        self._maps: dict[str, Counts] = {}

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
        found = predictions(output, self._objective)
        if are_maps(found, y):
            self._add_maps(found, y)
        else:
            check_metric(self._metric, maps=False)
            for name, prediction in with_ensemble(found, self._objective).items():
                _add(self._right, name, *_hits(prediction, y))

    def _labelled(self, y: Any) -> Tensor | None:
        """How many samples, or places, have a label; None where a target has no class indices."""
        if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or not y.ndim:
            return None
        y = y.long()  # -100 is 156 in a byte
        counted: Tensor = ((y >= 0) & (y != self._ignored)).sum()
        return counted

    def _add_maps(self, found: dict[str, Tensor], y: Tensor) -> None:
        check_metric(self._metric, maps=True, classes=classes_in(found["main"]))
        for name, rows, said in answers(found, y.shape[1:], self._objective):
            if name not in self._maps:
                classes = classes_in(found.get(name, found["main"]))
                self._maps[name] = Counts(classes, y.device)
            self._maps[name].add(said.labels, y[rows], ignore=self._ignored, logit=said.logit)

    def share(self) -> _Share:
        """Everything as plain numbers."""
        loss, right = ({n: (float(v), float(w)) for n, (v, w) in part.items()} for part in (self._loss, self._right))
        return _Share(self._samples, loss, right, {name: counts.cpu() for name, counts in self._maps.items()})


def check_metric(metric: str | None, *, maps: bool, classes: int = 2) -> None:
    """Raise `ConfigError` for a score that this task does not have."""
    if metric is None:
        return
    if maps:
        segmentation.check_metric(metric, classes)
    elif metric != ACCURACY:
        raise ConfigError(
            f"the score {metric!r} is of label maps; this task has {ACCURACY!r}. Set metric=null, or take targets (N, H, W)."
        )


def metric_of(metric: str | None, target: Any) -> str:
    """What the score is called for such targets, unless it is said."""
    return metric or (segmentation.MEAN_IOU if is_label_map(target) else ACCURACY)


def _hits(prediction: Tensor, target: Any) -> tuple[Tensor | int, Tensor | int]:
    if not isinstance(target, Tensor) or target.is_floating_point() or prediction.ndim != target.ndim + 1:
        return 0, 0
    labelled = target >= 0
    return ((prediction.argmax(1) == target) & labelled).sum(), labelled.sum()


def _add(sums: dict[str, tuple[Any, Any]], name: str, value: Any, weight: Any) -> None:
    before = sums.get(name)
    sums[name] = (value, weight) if before is None else (before[0] + value, before[1] + weight)


def _scores(shares: list[_Share], metric: str | None) -> Scores:
    def means(kind: str) -> dict[str, float]:
        found: dict[str, tuple[float, float]] = {}
        for share in shares:
            for name, (value, weight) in getattr(share, kind).items():
                _add(found, name, value, weight)
        return {name: value / weight for name, (value, weight) in found.items() if weight}

    maps: dict[str, Counts] = {}
    for share in shares:
        for name, counts in share.maps.items():
            maps[name] = maps[name] + counts if name in maps else counts
    metric = metric or (segmentation.MEAN_IOU if maps else ACCURACY)
    every = {name: found for name, counts in maps.items() if (found := counts.scores())}
    known = {name: value for name, found in every.items() if (value := found[metric]) is not None}
    return Scores(
        score=known if maps else means("right"),
        loss=means("loss"),
        samples=sum(share.samples for share in shares),
        metric=metric,
        scores=every,
        confusion={name: maps[name].matrix.tolist() for name in every},
    )
