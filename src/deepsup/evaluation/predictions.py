"""What outputs say: raw scores by name, and of label maps the class of every place at the size of the labels.

for name, answer in answers(predictions(output, objective), size, objective): ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from deepsup import losses
from deepsup.errors import ConfigError
from deepsup.evaluation.devices import forward
from deepsup.evaluation.sliding_window import tiled
from deepsup.features import main_prediction, replaced
from deepsup.losses import full_size
from deepsup.supervision.attaching import Outputs
from deepsup.supervision.exits import average
from deepsup.supervision.objectives import Objective
from deepsup.tasks import segmentation
from deepsup.terms import ENSEMBLE, TARGET

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Forward = Callable[[nn.Module, Any], Any]
"""What takes the place of `net(x)`."""

_ELEMENTS = 2**25  # of the scores of all outputs at full size that are there at a time


class Answer(NamedTuple):
    """Of each place (N, *places) its class, int64; of two classes also how strongly it is taken for the second."""

    labels: Tensor
    logit: Tensor | None


def predictions(output: Any, objective: Objective) -> dict[str, Tensor]:
    """Raw scores (N, C, ...) of what predicts classes, by name: `main`, then the branches; an ensemble where terms use one."""
    plan = objective.plan
    main, aux = output if isinstance(output, Outputs) else (output, {})
    found = objective.complete({"main": main_prediction(main, plan.main if plan else ()), **aux})
    scored = {ENSEMBLE, "main", *(b.name for b in plan.branches if b.predicts)} if plan else set(found)
    return {name: prediction for name, prediction in found.items() if name in scored}


def with_ensemble(found: dict[str, Tensor], objective: Objective) -> dict[str, Tensor]:
    """The outputs (N, C, ...) and the mean of their probabilities, unless there is one already or they do not fit."""
    alike = all(prediction.shape == found["main"].shape for prediction in found.values())
    if len(found) > 1 and ENSEMBLE not in found and alike and found["main"].ndim > 1:
        return {**found, ENSEMBLE: average(found.values(), [loss_of(name, objective) for name in found])}
    return found


def loss_of(name: str, objective: Objective) -> losses.Loss | str:
    """The loss of an output against the labels, which says how its scores become probabilities; else the main one's."""
    own = (edge.loss for edge in objective.edges if edge.source == name and edge.target == TARGET)
    return next((loss for loss in own if losses.describe(loss).scores), objective.edges[0].loss)


def ignored(objective: Objective) -> int:
    """The label that does not count by the main output's loss; labels below 0 never do."""
    return int(losses.option(loss_of("main", objective), "ignore_index", losses.IGNORE))


def answers(
    found: Mapping[str, Tensor], size: Sequence[int], objective: Objective
) -> Iterator[tuple[str, slice, Answer]]:
    """What each output (N, C, *places) says at `size`, some rows of the batch at a time: name, rows, answer.

    Scores are enlarged as the loss of the output does it. The ensemble is the mean of the probabilities of all outputs
    at `size`; there is none of a single output, nor of outputs that score different numbers of classes.
    """
    main = found["main"]
    places = math.prod(size) * main.shape[1] * len(found)
    step = max(1, _ELEMENTS // places)
    same = len(found) > 1 and ENSEMBLE not in found and all(s.shape[1] == main.shape[1] for s in found.values())
    for first in range(0, len(main), step):
        rows = slice(first, first + step)
        by = [loss_of(name, objective) for name in found]
        wide = [full_size.enlarged(raw[rows], size, loss) for raw, loss in zip(found.values(), by, strict=True)]
        yield from ((name, rows, answer(scores)) for name, scores in zip(found, wide, strict=True))
        if same:
            mean = average([scores.float() for scores in wide], by)
            yield ENSEMBLE, rows, answer(mean.logit() if mean.shape[1] == 1 else mean.log())


def in_tiles(
    objective: Objective,
    *,
    side: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    batch_size: int = 16,
    fabric: Fabric | None = None,
) -> Forward:
    """A forward that works tile by tile (see `tiled`) and returns what the net returns, its maps at the size of the image."""
    pick = objective.plan.main if objective.plan else ()

    def sigmoid(name: str, scores: Tensor) -> bool:
        return losses.is_sigmoid(loss_of(name, objective), scores.shape[1])

    def aligned(name: str) -> bool:
        return bool(losses.option(loss_of(name, objective), "align_corners", False))

    def run(net: nn.Module, x: Any) -> Any:
        last: list[Any] = []

        def scores_of(tiles: Tensor) -> dict[str, Tensor]:
            last[:] = [forward(net, tiles, fabric)]
            main, aux = last[0] if isinstance(last[0], Outputs) else (last[0], {})
            scores = {"main": main_prediction(main, pick), **aux}
            flat = [name for name, s in scores.items() if s.ndim != scores["main"].ndim]
            if flat:
                raise ConfigError(
                    f"tiles are put together from maps, and the output '{flat[0]}' is none: {tuple(scores[flat[0]].shape)}. "
                    "Score whole images: data.tile=null."
                )
            return scores

        found = tiled(
            scores_of,
            x,
            side=side,
            stride=stride,
            binary=sigmoid,
            align_corners=aligned,
            batch_size=batch_size,
        )
        assert isinstance(found, dict)
        whole = found.pop("main")
        (output,) = last
        if isinstance(output, Outputs):
            return Outputs(whole if isinstance(output.main, Tensor) else replaced(output.main, pick, whole), found)
        return whole if isinstance(output, Tensor) else replaced(output, pick, whole)

    return run


def answer(raw: Tensor) -> Answer:
    """The class of each place by its scores (N, C, *places); a single channel is the log-odds of the second of two."""
    if raw.shape[1] == 1:
        logit = raw[:, 0]
        return Answer((logit >= math.log(segmentation.THRESHOLD / (1 - segmentation.THRESHOLD))).long(), logit)
    return Answer(raw.argmax(1), raw[:, 1] - raw[:, 0] if raw.shape[1] == 2 else None)


def classes_in(raw: Tensor) -> int:
    """How many classes scores (N, C, *places) tell apart: a single channel two."""
    return max(2, raw.shape[1])


def are_maps(found: Mapping[str, Tensor], target: Any) -> bool:
    """Whether a target holds a class index for every place of an image."""
    return isinstance(target, Tensor) and is_label_map(target) and found["main"].ndim == target.ndim + 1


def is_label_map(target: Any) -> bool:
    """Whether a target is label maps (N, H, W), or of volumes (N, D, H, W)."""
    return isinstance(target, Tensor) and not target.is_floating_point() and target.ndim >= 3
