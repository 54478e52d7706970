"""Losses that pull features of one identity together and push others away, within a batch; any number of images an identity.

An anchor counts where the batch holds another image of its identity and one of another identity. Where none does, the loss is
0, and so is its gradient. An image labelled -100 is of no known identity: it is no anchor, and nobody's match or opposite.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup.errors import HeadError
from deepsup.features import widened
from deepsup.losses.labels import IGNORE
from deepsup.losses.named import loss
from deepsup.specs import ABOVE_ZERO, FLAG, Limit, at_least

MARGIN = Limit("a number of at least 0, or 'soft'", lambda v: at_least(0).fits(v) or v == "soft")


@loss(scores=False)
def triplet(
    prediction: Tensor,  # (N, D), features
    target: Tensor,  # (N,), identities
    *,
    margin: Annotated[float | str, MARGIN] = 0.3,
    normalise: Annotated[bool, FLAG] = False,
) -> Tensor:
    """Batch-hard triplet loss (Hermans et al. 2017, eq. 5), averaged over the anchors that count.

    max(0, margin + d(a, p) - d(a, n)), p the farthest image of the anchor's identity and n the nearest of another, d the
    Euclidean distance; `margin="soft"` is log(1 + exp(d(a, p) - d(a, n))). `normalise` scales features to length 1 first. Of
    equal images d has no gradient. Raises `HeadError` for other shapes.
    """
    _check("triplet", prediction, target)
    if not len(target):
        return prediction.sum()
    z = F.normalize(widened(prediction), dim=1) if normalise else widened(prediction)
    same, other = _pairs(target)
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        centred = z - z.mean(0)
        squared = centred.square().sum(1)
        far = squared + squared[:, None] - 2 * centred @ centred.T
        hardest = far.masked_fill(~same, -math.inf).argmax(1), far.masked_fill(~other, math.inf).argmin(1)
    # The two that count are computed again, from their difference: products of long features lose what is near.
    positive, negative = ((z - z[at]).square().sum(1).clamp(min=1e-12).sqrt() for at in hardest)
    apart = positive - negative
    hinged = F.softplus(apart) if isinstance(margin, str) else F.relu(apart + margin)
    return _mean(hinged, same.any(1) & other.any(1))


@loss(scores=False)
def circle(
    prediction: Tensor,  # (N, D), features
    target: Tensor,  # (N,), identities
    *,
    margin: Annotated[float, at_least(0)] = 0.25,
    gamma: Annotated[float, ABOVE_ZERO] = 64.0,
) -> Tensor:
    """Circle loss of pairs (Sun et al. 2020, eq. 6), averaged over the anchors that count.

    softplus(lse_p(-gamma [1 + margin - s_p]+ (s_p - 1 + margin)) + lse_n(gamma [s_n + margin]+ (s_n - margin))), s the cosine
    of the anchor with every other image of its identity (p) and every one of another (n); no gradient passes the factors in
    [.]+. Raises `HeadError` for other shapes.
    """
    _check("circle", prediction, target)
    z = F.normalize(widened(prediction), dim=1)
    same, other = _pairs(target)
    counts = same.any(1) & other.any(1)
    with torch.autocast(z.device.type, enabled=False):  # it would take the product in half precision
        s = z @ z.T
    fixed = s.detach()
    near = -gamma * (1 + margin - fixed).relu() * (s - 1 + margin)
    far = gamma * (fixed + margin).relu() * (s - margin)
    sums = [
        torch.where(counts[:, None], pull.masked_fill(~pairs, -math.inf), 0.0).logsumexp(1)
        for pull, pairs in ((near, same), (far, other))
    ]
    return _mean(F.softplus(sums[0] + sums[1]), counts)


def _check(name: str, prediction: Tensor, target: Tensor) -> None:
    if prediction.ndim != 2 or target.is_floating_point() or tuple(target.shape) != (prediction.shape[0],):
        raise HeadError(
            f"{name} needs features (N, D) and identities (integers) of shape (N,); found features of shape "
            f"{tuple(prediction.shape)} and a target of shape {tuple(target.shape)} and dtype {target.dtype}. Give the "
            "branch the head 'embed'."
        )


def _pairs(target: Tensor) -> tuple[Tensor, Tensor]:
    """Which images (N, N) are others of the anchor's identity (row), and which are of another."""
    known = target != IGNORE
    known, alike = known & known[:, None], target == target[:, None]
    itself = torch.eye(len(target), dtype=torch.bool, device=target.device)
    return known & alike & ~itself, known & ~alike


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp(min=1)
