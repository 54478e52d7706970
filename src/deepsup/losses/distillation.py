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
    kind: str = "class",
) -> Tensor:
    """KL(teacher || prediction) of the softened class probabilities, averaged over the batch (Hinton et al. 2015).

    Scores are divided by `temperature` before the softmax; with `squared` the loss is multiplied by temperature^2, so that
    gradients keep their size (DHM, ONE, DLB; the official BYOT does not). With `eps` the logarithms are of p + eps, as in
    released code (1e-8 there), which bounds the loss near -log(eps). Of `labels` each score goes through a sigmoid, and
    the divergences of all labels are added. The teacher gets a gradient unless it is detached. Raises `HeadError` when the
    shapes differ.
    """
    _same_shape("kl", prediction, teacher, least=2)
    student, truth = widened(prediction) / temperature, widened(teacher) / temperature
    if kind == "labels" or prediction.shape[1] == 1:  # each label and its contrary
        value = sum(
            _divergence(F.logsigmoid(t), F.logsigmoid(s), eps) for t, s in ((truth, student), (-truth, -student))
        )
    else:
        value = _divergence(F.log_softmax(truth, 1), F.log_softmax(student, 1), eps)
    mean = torch.as_tensor(value).sum(1).mean()
    return mean * temperature**2 if squared else mean


def _divergence(truth: Tensor, student: Tensor, eps: float) -> Tensor:
    """p (log p - log q) of every class, given the logarithms."""
    p = truth.exp()
    return p * (truth - student) if eps == 0 else p * ((p + eps).log() - (student.exp() + eps).log())


@loss(scores=False, teacher=True, kinds=())
def hint(prediction: Tensor, teacher: Tensor) -> Tensor:
    """Squared L2 distance of two features, summed over all but the batch, averaged over the batch.

    BYOT's term ||F_i - F_C||^2 (Zhang et al. 2019), FitNets' hint (Romero et al. 2015; theirs is half of it). Both are
    (N, ...) of one shape; a head that gives the teacher's shape is the adaptation layer. Raises `HeadError` otherwise.
    """
    _same_shape("hint", prediction, teacher, least=1)
    return (widened(prediction) - widened(teacher)).square().sum() / prediction.shape[0]


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
