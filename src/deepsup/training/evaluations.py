"""How good are the outputs? Accuracy and loss of the main prediction, of every head, and of all together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from deepsup.datasets import Split
from deepsup.edges import ENSEMBLE
from deepsup.exits import average
from deepsup.features import main_prediction
from deepsup.objectives import Objective
from deepsup.supervised import Outputs, Supervised, supervising

from .engines import forward, gathered
from .feeds import Batches, Feed, feed, samples_in

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Scores(NamedTuple):
    """Accuracy (a fraction) by output: `main`, each branch that predicts classes, and `ensemble`, the mean of their
    probabilities; mean loss by term: the outputs' own, and those between outputs such as `late<-main`.
    """

    accuracy: dict[str, float]
    loss: dict[str, float]
    samples: int


def evaluate(
    net: nn.Module,
    data: Split | Batches | Feed,
    *,
    objective: Objective | None = None,
    batch_size: int = 256,
    progress: float = 1.0,
    fabric: Fabric | None = None,
) -> Scores:
    """Score a supervised or plain net in eval mode, its heads included, and leave its train flags as they were.

    Accuracy is counted over all positions that have a label of 0 or more; targets that are not class indices have none.
    With `fabric` each process scores its own batches, and all get the scores over all of them.
    """
    objective = objective or Objective(net.plan if isinstance(net, Supervised) else None)
    device = fabric.device if fabric else next((p.device for p in net.parameters()), torch.device("cpu"))
    sums: dict[str, dict[str, Any]] = {"right": {}, "counted": {}, "loss": {}}
    samples = 0
    with torch.no_grad(), _evaluating(net):
        for x, y in feed(data, batch_size, shuffle=False, device=device).epoch(0):
            x, y = (v.to(device) if isinstance(v, Tensor) else v for v in (x, y))
            output = forward(net, x, fabric)
            terms = objective(output, y, progress=progress)
            n = samples_in(y)
            samples += n
            for name, part in terms.parts.items():
                _add(sums["loss"], name, part.float() * n)
            for name, prediction in _predictions(output, objective).items():
                right, counted = _hits(prediction, y)
                _add(sums["right"], name, right)
                _add(sums["counted"], name, counted)
    return _scores(gathered(fabric, _numbers(sums, samples)) if fabric else [_numbers(sums, samples)])


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
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


def _predictions(output: Any, objective: Objective) -> dict[str, Tensor]:
    """What predicts classes, by name: the outputs, and the ensemble of all unless the objective has one of its own."""
    plan = objective.plan
    main, aux = output if isinstance(output, Outputs) else (output, {})
    found = objective.complete({"main": main_prediction(main, plan.main if plan else ()), **aux})
    scored = {ENSEMBLE, "main", *(b.name for b in plan.branches if b.predicts)} if plan else set(found)
    found = {name: prediction for name, prediction in found.items() if name in scored}
    alike = all(prediction.shape == found["main"].shape for prediction in found.values())
    if len(found) > 1 and ENSEMBLE not in found and alike and found["main"].ndim > 1:
        found[ENSEMBLE] = average(found.values())
    return found


def _hits(prediction: Tensor, target: Any) -> tuple[Tensor | int, Tensor | int]:
    if not isinstance(target, Tensor) or target.is_floating_point() or prediction.ndim != target.ndim + 1:
        return 0, 0
    labelled = target >= 0
    return ((prediction.argmax(1) == target) & labelled).sum(), labelled.sum()


def _add(sums: dict[str, Any], name: str, value: Any) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _numbers(sums: dict[str, dict[str, Any]], samples: int) -> dict[str, Any]:
    return {"samples": samples, **{k: {name: float(v) for name, v in part.items()} for k, part in sums.items()}}


def _scores(shares: list[dict[str, Any]]) -> Scores:
    def total(kind: str) -> dict[str, float]:
        names = dict.fromkeys(name for share in shares for name in share[kind])
        return {name: sum(share[kind].get(name, 0.0) for share in shares) for name in names}

    samples = sum(share["samples"] for share in shares)
    right, counted, loss = total("right"), total("counted"), total("loss")
    return Scores(
        accuracy={name: right[name] / counted[name] for name in right if counted[name]},
        loss={name: value / samples for name, value in loss.items()},
        samples=samples,
    )
