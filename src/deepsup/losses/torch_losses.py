"""Losses of PyTorch's own, which say nothing of themselves: what they read."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.nn import functional as F

_KINDS: dict[str, tuple[Any, ...]] = {
    "class": (F.cross_entropy, F.nll_loss, F.multi_margin_loss, nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss),
    "labels": (
        *(F.binary_cross_entropy_with_logits, F.multilabel_soft_margin_loss, F.multilabel_margin_loss),
        *(nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss, nn.MultiLabelMarginLoss),
    ),
    "values": (
        *(F.mse_loss, F.l1_loss, F.huber_loss, F.smooth_l1_loss, F.gaussian_nll_loss, F.poisson_nll_loss),
        *(nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss, nn.PoissonNLLLoss),
    ),
}


_CALLED = {"class_weight": "weight"}  # as PyTorch calls an option of ours


def option_of(loss: Any, name: str, default: Any) -> Any:
    """The value that an option has in a loss of PyTorch's, as a module or bound to its function; `default` where nothing says."""
    while isinstance(loss, functools.partial):
        for known in (name, _CALLED.get(name, name)):
            if known in loss.keywords:
                return loss.keywords[known]
        loss = loss.func
    if not isinstance(loss, nn.Module):
        return default
    found = getattr(loss, _CALLED.get(name, name), None)
    return default if found is None else found


def kind_of(loss: Any) -> str | None:
    """What a loss of PyTorch's reads (see `predictions.KINDS`); None for one that is not PyTorch's."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return next((kind for kind, known in _KINDS.items() if loss in known or type(loss) in known), None)
