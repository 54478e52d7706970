"""What the doctor sees in predictions, labels and losses, each by the name of the output it is about."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup import gradients, losses, schedules
from deepsup.doctor.findings import WARNING, Finding, branch, error, from_error, warning
from deepsup.errors import ClassCountError, DeepsupError, HeadError
from deepsup.losses.full_size import lost_classes
from deepsup.supervision.first_batch_checks import uncounted
from deepsup.supervision.objectives import Objective
from deepsup.supervision.targets import Targets
from deepsup.terms import TARGET, Edge

IGNORED = (-100, 255)  # labels that mean "no class" by custom
SAID = 10  # of a list of labels
KINDS: dict[Any, str] = {
    F.cross_entropy: "cross_entropy",
    losses.cross_entropy: "cross_entropy",
    nn.CrossEntropyLoss: "cross_entropy",
    F.nll_loss: "nll_loss",
    nn.NLLLoss: "nll_loss",
    F.kl_div: "kl_div",
    nn.KLDivLoss: "kl_div",
}

CLASS_COUNT = error(
    "class-count",
    why="Cross-entropy has no score for such a label: it raises, or on a GPU aborts the process",
    fix="Build model and heads with as many classes as the data have, count labels from 0, and set pixels to ignore to -100",
    raised=ClassCountError,
)
NORMALISED_SCORES = error(
    "normalised-scores",
    why="Cross-entropy applies log-softmax itself: applied twice, it flattens the gradients, and training is slow or stalls",
    fix="Give out raw scores: remove the softmax or log_softmax at the end",
)
RAW_SCORES_IN_NLL = error(
    "raw-scores-in-nll",
    why="The loss nll_loss expects log-probabilities: of raw scores it rewards ever larger numbers, without a lower bound",
    fix="Use loss='cross_entropy', or put log_softmax before the loss",
)
MEAN_KL = warning(
    "mean-kl",
    why="This reduction divides by classes and pixels too, so the term is smaller than its weight says, by the number of scores"
    " a sample",
    fix="Use torch.nn.functional.kl_div(..., reduction='none').sum(1).mean(), which is the mean over samples and pixels",
)
LOST_CLASSES = warning(
    "lost-classes",
    why="Small objects fall between the pixels that are kept: the branch learns that these classes do not exist",
    fix="Enlarge the scores to the size of the labels (interpolate) rather than shrink the labels, or tap a layer with a larger"
    " map",
)
TARGET_UNFIT = error(
    "target-unfit",
    why="The first training step stops here",
    fix="Give the branch a head or a loss= that fits the target",
)
NOTHING_COUNTS = warning(
    "nothing-counts",
    why="The loss of such a batch is 0, and so is its gradient: if all are like it, nothing is learned",
    fix="Look at the targets, and at what marks a place that does not count: -100 or ignore_index=, NaN, the mask",
)
LOSS_FAILED = error("loss-failed", why="The first training step stops here", fix="Try the loss on one output by hand")
LOSS_NOT_FINITE = error(
    "loss-not-finite",
    why="One step makes every weight that leads to it NaN",
    fix="Look for a logarithm or division of zero, a batch of ignored labels only, or float16 overflow",
)
LOSS_WITHOUT_GRADIENT = error(
    "loss-without-gradient",
    why="Nothing learns from it",
    fix="Compute prediction and loss with gradients on, without .detach(), .item() or torch.no_grad() on the way",
)


def scoring(
    predictions: Mapping[str, Tensor], target: Any, objective: Objective, *, batch: int
) -> tuple[list[Finding], list[Tensor]]:
    """Traps of predictions, labels and losses, and the losses themselves (or the predictions where there is no target).

    `batch`: how many samples the input holds.
    """
    found: list[Finding] = []
    values: list[Tensor] = []
    try:
        as_given = objective.targets(target, as_given=True)
        targets = objective.settle(predictions, target)
        predictions = objective.complete(objective.first(predictions))
    except DeepsupError as error:
        return [from_error(error, place("main"), trap=TARGET_UNFIT)], list(predictions.values())
    for edge in objective.edges:
        prediction = predictions.get(edge.source)
        if prediction is None:
            continue
        if edge.target != TARGET or not losses.describe(edge.loss).scores:  # no labels to be wrong about
            values.append(prediction)
            continue
        found += _scale_of_scores(edge, prediction)
        target = None if targets.main is None else targets.of(edge.source)[0][0]
        bad = _misfit(edge, prediction, target, batch) or _labels(edge, prediction, target)
        bad = bad or _unlike(edge, prediction, target)
        if bad is not None and not any(f.code == bad.code and f.what == bad.what for f in found):
            found.append(bad)  # said once where main output and branches have the same classes
        held = objective.held(edge, targets, as_given)
        output, asked = objective.given(edge, prediction, held)
        goal = held.of(edge.source)[0][0]
        value = None if target is None or bad is not None else _value(edge, output, goal, asked, found)
        found += _not_finite(edge, value, objective)
        if value is not None:
            found += _silent(edge, prediction, targets)
            found += _lost(edge, prediction, target, value)
        values.append(prediction if value is None else value)
    return found, values


def place(source: str) -> str:
    """How a finding says which output it is about."""
    return "main output" if source == "main" else branch(source)


def _kind(loss: Any) -> str:
    """`cross_entropy`, `nll_loss` or `kl_div`, where a loss is known to be one of them."""
    function = _bare(loss)
    function = losses.LOSSES[function.name] if isinstance(function, losses.Named) else function
    return next((kind for known, kind in KINDS.items() if function is known or type(function) is known), "")


def _bare(loss: Any) -> Any:
    """The loss that a text names, without the arguments of a `partial`."""
    function = losses.get(loss)
    return function.func if isinstance(function, functools.partial) else function


def _bare_name(loss: Any) -> str:
    return losses.show(loss).partition("(")[0] if isinstance(loss, (str, losses.Named)) else "cross_entropy"


def _scale_of_scores(edge: Edge, prediction: Tensor) -> Iterator[Finding]:
    kind, scale = _kind(edge.loss), normalised(prediction)
    where, loss = place(edge.source), losses.show(edge.loss)
    if kind == "cross_entropy" and scale:
        what = "sum to 1" if scale == "probabilities" else "have exponentials that sum to 1"
        layer = "softmax" if scale == "probabilities" else "log_softmax"
        fix = f"Give out raw scores: remove the {layer} at the end"
        if layer == "log_softmax" and not isinstance(_bare(edge.loss), losses.Named):  # nll_loss smoothes nothing
            given = "F" if edge.source == "main" else f"{{'{edge.source}': F}}"
            taker = "Objective(plan, loss=F)" if edge.source == "main" else f"plan(..., branch_loss={given})"
            fix += f"; or {taker} with F = torch.nn.functional.nll_loss"
        yield NORMALISED_SCORES.found(where, f"it gives {scale} (they {what}), and its loss is {loss}", fix=fix)
    if losses.describe(edge.loss).binary and _looks_like_sigmoid(prediction):
        what = f"all that it gives lies between 0 and 1, and its loss is {loss}"
        fix = "Give out raw scores: remove the sigmoid at the end"
        yield NORMALISED_SCORES.found(where, what, fix=fix, severity=WARNING)
    if kind == "nll_loss" and scale != "log-probabilities":
        yield RAW_SCORES_IN_NLL.found(where, f"it gives {scale or 'raw scores'}, and its loss is {loss}")
    if kind == "kl_div" and losses.option(edge.loss, "reduction", "mean") == "mean":
        shape = tuple(prediction.shape)
        yield MEAN_KL.found(where, f"its loss is {loss} with reduction='mean', over scores of shape {shape}")


def normalised(prediction: Tensor) -> str:  # (N, C, ...)
    """`probabilities` or `log-probabilities` where the scores over axis 1 are such at every place, else an empty text."""
    if prediction.ndim < 2 or prediction.shape[1] < 2 or not prediction.numel() or not prediction.is_floating_point():
        return ""
    scores = prediction.detach()
    tolerance = 1e-3 if scores.dtype in (torch.float32, torch.float64) else 2e-2
    scores = scores.float()
    if not bool(torch.isfinite(scores).any()):
        return ""
    if bool((scores <= tolerance).all()) and bool((scores.logsumexp(1).abs() < tolerance).all()):
        return "log-probabilities"
    if bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < tolerance).all()):
        return "probabilities"
    return ""


def _looks_like_sigmoid(prediction: Tensor) -> bool:  # (N, C, ...)
    scores = prediction.detach()
    return bool(
        scores.numel() and (scores >= 0).all() and (scores <= 1).all() and (scores != scores.flatten()[0]).any()
    )


def _misfit(edge: Edge, prediction: Tensor, target: Any, batch: int) -> Finding | None:
    """A target of another shape or type than the loss takes, where it can be told how to mend it."""
    if not isinstance(target, Tensor) or prediction.ndim < 2 or _kind(edge.loss) not in ("cross_entropy", "nll_loss"):
        return None
    shape, given, where = tuple(prediction.shape), tuple(target.shape), place(edge.source)
    indices, soft = (shape[0], *shape[2:]), target.is_floating_point()
    if target.ndim and len(target) != shape[0] and shape[0] == batch:
        what = f"the target has {len(target)} samples, the input {batch}"
        return TARGET_UNFIT.found(where, what, fix="Pass the input and the target of one and the same batch")
    wide = len(given) == len(indices) + 1 and given[1] == 1 and (given[0], *given[2:]) == indices and given != shape
    if not wide and given != indices:
        if given == shape and not soft and _kind(edge.loss) == "cross_entropy":
            what = f"the target holds class probabilities (or one-hot labels) of dtype {target.dtype}"
            return TARGET_UNFIT.found(where, what, fix="Convert it: target.float()")
        return None
    fits = not soft if losses.is_ours(edge.loss) else target.dtype in (torch.int64, torch.uint8) and not wide
    if fits or (soft and bool((target != target.round()).any())):  # which are real values
        return None
    what = f"the target has shape {given} and dtype {target.dtype}; class indices of shape {indices} and integers are needed"
    fix = "target" + (".squeeze(1)" if wide else "") + ("" if target.dtype == torch.int64 else ".long()")
    return TARGET_UNFIT.found(where, what, fix=f"Convert it: {fix}")


def _unlike(edge: Edge, prediction: Tensor, target: Any) -> Finding | None:
    """Floats that are no probabilities where the loss takes such, and the like."""
    if not isinstance(target, Tensor) or prediction.ndim < 2:
        return None
    try:
        losses.check_target(edge.loss, prediction, target)
    except (HeadError, ClassCountError) as error:
        return from_error(error, place(edge.source), trap=TARGET_UNFIT if isinstance(error, HeadError) else CLASS_COUNT)
    return None


def _labels(edge: Edge, prediction: Tensor, target: Any) -> Finding | None:
    """Labels without a class. Asked before the loss is run, which would abort the process on a GPU."""
    if not isinstance(target, Tensor) or target.is_floating_point() or not target.numel() or prediction.ndim < 2:
        return None
    if target.is_complex():  # which is said with the loss
        return None
    kind = losses.describe(edge.loss)
    classes = 2 if kind.one_channel and prediction.shape[1] == 1 else prediction.shape[1]
    sure = _kind(edge.loss) in ("cross_entropy", "nll_loss") or kind.resizes
    present = _present(target, (losses.option(edge.loss, "ignore_index", -100),) if sure else IGNORED)
    bad = [v for v in present if not 0 <= v < classes]
    if not bad or not (sure or target.is_cuda):
        return None
    fix = "Labels seem to be counted from 1: subtract 1" if (present[0], present[-1]) == (1, classes) else ""
    fix = "If 255 means 'no class', set those labels to -100" if bad == [255] else fix
    if bad == [255] and kind.resizes:
        option = "loss" if edge.source == "main" else "branch_loss"
        fix += f", or say so: plan(..., {option}='{_bare_name(edge.loss)}(ignore_index=255)')"
    if classes == 1 and bad == [1]:
        fix = "One channel tells two classes apart by a sigmoid: loss='binary'; or give the model two channels"
    what = f"there are {classes} classes (0..{classes - 1}), but the target holds {_counted('label', bad)}"
    return CLASS_COUNT.found(place(edge.source), what, fix=fix, severity="" if sure else WARNING)


def _present(target: Tensor, ignored: tuple[int, ...]) -> list[int]:
    """The labels in a target, in order."""
    labels: list[int] = torch.unique(target).tolist()
    return [v for v in labels if v not in ignored]


def _counted(word: str, values: list[int]) -> str:
    """`class 3`, `classes 3, 4`, and not more than ten."""
    plural = {"class": "classes", "label": "labels"}[word] if len(values) > 1 else word
    return f"{plural} {', '.join(map(str, values[:SAID]))}{', ...' if len(values) > SAID else ''}"


def _value(
    edge: Edge, prediction: Tensor, target: Any, asked: Mapping[str, Any], found: list[Finding]
) -> Tensor | None:
    """The loss on the batch, `asked` what it asks for besides; None, and a finding, where it cannot be had."""
    where, loss = place(edge.source), losses.show(edge.loss)
    try:
        with torch.enable_grad():
            value = losses.get(edge.loss)(prediction, target, **asked)
    except Exception as error:
        trap = CLASS_COUNT if isinstance(error, ClassCountError) else LOSS_FAILED
        found.append(from_error(error, where, trap=TARGET_UNFIT if isinstance(error, HeadError) else trap))
        return None
    if not isinstance(value, Tensor) or value.ndim:
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        fix = "Return one number, the mean over the batch"
        found.append(LOSS_FAILED.found(where, f"its loss {loss} returned {given}", fix=fix))
        return None
    if bool(torch.isfinite(value.detach())) and prediction.requires_grad and not value.requires_grad:
        found.append(LOSS_WITHOUT_GRADIENT.found(where, f"its loss {loss} has no graph"))
    return value


def _not_finite(edge: Edge, value: Tensor | None, objective: Objective) -> Iterator[Finding]:
    """A loss that is no number, and what of the net it reaches: nothing at weight 0, the head alone where its gradient ends."""
    if value is None or bool(torch.isfinite(value.detach())):
        return
    branches = {b.name: b for b in objective.plan.branches} if objective.plan else {}
    own, why, severity = branches.get(edge.name), "", ""
    never = isinstance(edge.weight, schedules.constant) and not edge.weight.value
    if own is not None and never:
        why, severity = (
            "Its weight is 0, so nothing learns from it yet; with any other, one step would make weights NaN",
            WARNING,
        )
    elif own is not None and isinstance(own.gradient, gradients.detach):
        why = "One step makes its head NaN, and the total that is shown; its gradient ends there"
    elif own is not None:
        why = f"One step makes its head and every weight up to '{own.layer}' NaN"
    what = f"its loss {losses.show(edge.loss)} is {value.item()} on the first batch"
    yield LOSS_NOT_FINITE.found(place(edge.source), what, why=why, severity=severity)


def _silent(edge: Edge, prediction: Tensor, targets: Targets) -> Iterator[Finding]:
    """A batch of which nothing counts for an output."""
    never = isinstance(edge.weight, schedules.constant) and not edge.weight.value
    if not never and uncounted([edge], {edge.source: prediction}, targets, None):
        what = f"not one label or value of this batch counts for its loss {losses.show(edge.loss)}"
        yield NOTHING_COUNTS.found(place(edge.source), what)


def _lost(edge: Edge, prediction: Tensor, target: Any, value: Tensor) -> Iterator[Finding]:
    """Classes that shrinking to the branch's map drops, if the loss really does not see them.

    Their labels are exchanged for those of another class: a loss that stays the same to the bit never read them.
    """
    if not isinstance(target, Tensor) or target.is_floating_point() or target.ndim < 3:
        return
    size, full = tuple(prediction.shape[2:]), tuple(target.shape[1:])
    if len(size) != len(full) or not any(s < f for s, f in zip(size, full, strict=True)):
        return
    gone = {c for c in _dropped(target, size) if _is_unread(edge.loss, prediction, target, value, c)}
    gone |= set(lost_classes(prediction, target, edge.loss))
    if gone:
        small, large = ("x".join(map(str, shape)) for shape in (size, full))
        what = f"labels of {large}, shrunk to its map of {small}, lose {_counted('class', sorted(gone))}"
        yield LOST_CLASSES.found(place(edge.source), what)


def _dropped(target: Tensor, size: tuple[int, ...]) -> list[int]:
    """The classes that either way of nearest shrinking loses."""
    pixels = target[:, None].float()
    kept = [set(_present(F.interpolate(pixels, size=size, mode=mode), ())) for mode in ("nearest", "nearest-exact")]
    return [v for v in _present(target, IGNORED) if not all(v in labels for labels in kept)]


def _is_unread(loss: Any, prediction: Tensor, target: Tensor, value: Tensor, label: int) -> bool:
    others = [v for v in _present(target, IGNORED) if v != label]
    if not others:
        return False
    try:
        with torch.no_grad():
            again = losses.get(loss)(prediction.detach(), torch.where(target == label, others[0], target))
    except Exception:
        return False
    return torch.equal(again, value.detach())
