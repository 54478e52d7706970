"""Losses that compare embeddings of two crops of each image."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup.errors import HeadError
from deepsup.features import widened
from deepsup.losses.labels import IGNORE
from deepsup.losses.named import loss
from deepsup.specs import ABOVE_ZERO


@loss(scores=False, views=2, kinds=())
def supcon(
    prediction: Tensor,  # (2N, D), embeddings
    target: Tensor,  # (2N,), class indices
    *,
    temperature: Annotated[float, ABOVE_ZERO] = 0.07,
) -> Tensor:
    """Supervised contrastive loss L_out (Khosla et al. 2020, eq. 2), averaged over the anchors.

    `prediction` holds embeddings (2N, D) of two crops of each image, first all first crops, then all second ones; they
    are L2-normalised here. `target` holds class indices (2N,), those of the images repeated. Positives of an anchor are
    all others of its class; an anchor without any (its two crops differ in label) adds nothing. An image labelled -100 is
    of no class: its crops have one another alone. Raises `HeadError`.
    """
    _check_views("supcon", prediction)
    if target.is_floating_point() or tuple(target.shape) != (prediction.shape[0],):
        raise HeadError(
            f"supcon of embeddings of shape {tuple(prediction.shape)} needs class indices (integers) of shape "
            f"{(prediction.shape[0],)}, those of the two crops one after the other: torch.cat([y, y]); found a target of "
            f"shape {tuple(target.shape)} and dtype {target.dtype}."
        )
    log_share, itself = _log_shares(prediction, temperature)
    image = torch.arange(len(target), device=target.device) % (len(target) // 2)
    target = torch.where(target == IGNORE, IGNORE - 1 - image, target)  # a label of its own for each
    positive = (target.unsqueeze(0) == target.unsqueeze(1)) & ~itself
    found = torch.where(positive, log_share, 0.0).sum(1)
    return -(found / positive.sum(1).clamp(min=1)).mean()


@loss(scores=False, views=2, kinds=())
def simclr(
    prediction: Tensor,  # (2N, D), embeddings
    target: Any,
    *,
    temperature: Annotated[float, ABOVE_ZERO] = 0.07,
) -> Tensor:
    """NT-Xent of SimCLR (Chen et al. 2020, eq. 1), averaged over the anchors; labels are not read.

    `prediction` holds embeddings (2N, D) as in `supcon`; the positive of a crop is the other crop of its image. Raises
    `HeadError` for another shape.
    """
    _check_views("simclr", prediction)
    log_share, _ = _log_shares(prediction, temperature)
    half = prediction.shape[0] // 2
    return -(log_share.diagonal(half).sum() + log_share.diagonal(-half).sum()) / prediction.shape[0]


def _check_views(name: str, prediction: Tensor) -> None:
    if prediction.ndim != 2 or prediction.shape[0] % 2 or not prediction.shape[0]:
        raise HeadError(
            f"{name} needs embeddings (2N, D) of two crops of each image, torch.cat([first, second]); found shape "
            f"{tuple(prediction.shape)}. Give the branch the head 'embed', and the model both crops as one batch."
        )


def _log_shares(embedding: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of each anchor (row): the log of each other's share in sum over a != i of exp(z_i z_a / t); where it is itself."""
    z = F.normalize(widened(embedding), dim=1)
    with torch.autocast(z.device.type, enabled=False):  # it would take the product in half precision
        similarity = z @ z.T / temperature
    itself = torch.eye(z.shape[0], dtype=torch.bool, device=z.device)
    return F.log_softmax(similarity.masked_fill(itself, -math.inf), 1), itself
