"""Losses between two outputs: what one learns from another, the teacher."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup.errors import HeadError
from deepsup.features import widened
from deepsup.losses.named import loss
from deepsup.specs import FLAG, Limit, between, is_number

# In float32 the difference of two logarithms of almost equal numbers times T^2 is rounding alone above.
TEMPERATURE = Limit("a number above 0, at most 100", lambda v: is_number(v) and 0 < v <= 100)


@loss(scores=False, teacher=True, kinds=("class", "labels"))
def kl(
    prediction: Tensor,  # (N, C, ...), raw scores
    teacher: Tensor,  # (N, C, ...), raw scores
    *,
    temperature: Annotated[float, TEMPERATURE] = 1.0,
    squared: Annotated[bool, FLAG] = True,
    eps: Annotated[float, between(0, 1)] = 0.0,
    ratio: Annotated[bool, FLAG] = False,
    kind: str = "class",
) -> Tensor:
    """KL(teacher || prediction) of the softened class probabilities, averaged over the batch (Hinton et al. 2015).

    Scores are divided by `temperature` before the softmax; with `squared` the loss is multiplied by temperature^2, so that
    gradients keep their size (DHM, ONE, DLB; the official BYOT does not). With `eps` every probability is
    (p + eps) / (1 + C eps), as in the released DHM and DKS, or with `ratio` the logarithm is that of
    eps + p / (q + eps), as in the released DML; 1e-8 in all three, which bounds the loss near -log(eps), 18.4. Of `labels`
    each score goes through a sigmoid, and the divergences of all labels are added. The teacher gets a gradient unless it is
    detached. Raises `HeadError` when the shapes differ.
    """
    _same_shape("kl", prediction, teacher, least=2)
    student, truth = widened(prediction) / temperature, widened(teacher) / temperature
    if kind == "labels" or prediction.shape[1] == 1:  # each label and its contrary
        pairs = [(F.logsigmoid(t), F.logsigmoid(s)) for t, s in ((truth, student), (-truth, -student))]
        value = sum(_divergence(t, s, eps, ratio, classes=2) for t, s in pairs)
    else:
        logs = F.log_softmax(truth, 1), F.log_softmax(student, 1)
        value = _divergence(*logs, eps, ratio, classes=prediction.shape[1])
    each = torch.as_tensor(value).sum(1)
    mean = each.mean() if each.numel() else each.sum()
    return mean * temperature**2 if squared else mean


def _divergence(truth: Tensor, student: Tensor, eps: float, ratio: bool, *, classes: int) -> Tensor:
    """p (log p - log q) of every class, given the logarithms of p and q."""
    p, q = truth.exp(), student.exp()
    if eps == 0:
        return p * (truth - student)
    if ratio:
        return p * (eps + p / (q + eps)).log()
    return (p + eps) / (1 + classes * eps) * ((p + eps) / (q + eps)).log()


@loss(scores=False, teacher=True, kinds=())
def hint(prediction: Tensor, teacher: Tensor, *, squared: Annotated[bool, FLAG] = True) -> Tensor:
    """Squared L2 distance of two features, summed over all but the batch, averaged over the batch.

    BYOT's term ||F_i - F_C||^2 (Zhang et al. 2019), FitNets' hint (Romero et al. 2015; theirs is half of it). Without
    `squared` it is the L2 distance of the two batches as one vector each, as in BYOT's released code, which grows as the
    root of the batch size. Both are (N, ...) of one shape; a head that gives the teacher's shape is the adaptation layer.
    Raises `HeadError` otherwise.
    """
    _same_shape("hint", prediction, teacher, least=1)
    if not squared:
        return torch.dist(widened(prediction), widened(teacher))
    return (widened(prediction) - widened(teacher)).square().sum() / max(1, prediction.shape[0])


@loss(scores=False, kinds=())
def none(prediction: Tensor, target: Any) -> Tensor:
    """Zero: the mark of an output without a loss of its own, such as a feature that only another term reads."""
    return prediction.new_zeros(())  # not 0 * prediction.sum(), which is NaN where a prediction is infinite


def _same_shape(name: str, prediction: Tensor, teacher: Tensor, *, least: int) -> None:
    if prediction.ndim < least or prediction.shape != teacher.shape:
        raise HeadError(
            f"{name} compares two outputs of one shape; found {tuple(prediction.shape)} and {tuple(teacher.shape)}. "
            "Give the branch a head whose output has the teacher's shape, or choose another teacher."
        )
