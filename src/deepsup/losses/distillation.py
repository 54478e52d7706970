"""Losses between two outputs: what one learns from another, the teacher."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor
from torch.nn import functional as F

from deepsup.errors import HeadError
from deepsup.features import widened
from deepsup.losses.named import loss
from deepsup.specs import ABOVE_ZERO, FLAG


@loss(scores=False, teacher=True)
def kl(
    prediction: Tensor,  # (N, C, ...), raw scores
    teacher: Tensor,  # (N, C, ...), raw scores
    *,
    temperature: Annotated[float, ABOVE_ZERO] = 1.0,
    squared: Annotated[bool, FLAG] = True,
) -> Tensor:
    """KL(teacher || prediction) of the softened class probabilities, averaged over the batch (Hinton et al. 2015).

    Scores are divided by `temperature` before the softmax; with `squared` the loss is multiplied by temperature^2, so that
    gradients keep their size (DHM, ONE, DLB; the official BYOT does not). The smoothing of the released DHM,
    x' = (x + 1e-8) / (1 + C 1e-8), guards its logarithm of a softmax and is not needed with log_softmax. The teacher gets a
    gradient unless it is detached. Raises `HeadError` when the shapes differ.
    """
    _same_shape("kl", prediction, teacher, least=2)
    student = F.log_softmax(widened(prediction) / temperature, 1)
    truth = F.log_softmax(widened(teacher) / temperature, 1)
    value = (truth.exp() * (truth - student)).sum(1).mean()
    return value * temperature**2 if squared else value


@loss(scores=False, teacher=True)
def hint(prediction: Tensor, teacher: Tensor) -> Tensor:
    """Squared L2 distance of two features, summed over all but the batch, averaged over the batch.

    BYOT's term ||F_i - F_C||^2 (Zhang et al. 2019), FitNets' hint (Romero et al. 2015; theirs is half of it). Both are
    (N, ...) of one shape; a head that gives the teacher's shape is the adaptation layer. Raises `HeadError` otherwise.
    """
    _same_shape("hint", prediction, teacher, least=1)
    return (widened(prediction) - widened(teacher)).square().sum() / prediction.shape[0]


@loss(scores=False)
def none(prediction: Tensor, target: Any) -> Tensor:
    """Zero: the mark of an output without a loss of its own, such as a feature that only another term reads."""
    return prediction.new_zeros(())  # not 0 * prediction.sum(), which is NaN where a prediction is infinite


def _same_shape(name: str, prediction: Tensor, teacher: Tensor, *, least: int) -> None:
    if prediction.ndim < least or prediction.shape != teacher.shape:
        raise HeadError(
            f"{name} compares two outputs of one shape; found {tuple(prediction.shape)} and {tuple(teacher.shape)}. "
            "Give the branch a head whose output has the teacher's shape, or choose another teacher."
        )
