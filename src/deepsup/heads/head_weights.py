"""The weights of heads: a last layer that starts at zero, and their norm."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from deepsup.errors import HeadError
from deepsup.features import Feature, widened
from deepsup.heads.build_head import show
from deepsup.heads.lent_layers import lent, tried
from deepsup.layers.snapshot import untouched


def zero(head: nn.Module, feature: Feature, *, model: nn.Module | None = None) -> nn.Module:
    """The head itself, its last layer set to zero: at first it scores all classes alike, so that the loss of its scores
    sends the trunk no gradient.

    Zero initialisation of auxiliary heads: LION-DG (arXiv 2601.02105). The last layer is the linear or convolutional one
    that runs last on an activation of `feature`, wherever it was registered. Raises `HeadError` where there is none, or
    where it is a layer of `model`'s own.
    """
    path = scoring_layer(tried(head, model), feature)
    if path is None:
        raise HeadError(
            f"the head {show(head)} has no linear or convolutional layer whose weights could start at zero. Leave it out "
            "of zero_heads, or set its last layer to zero yourself."
        )
    if lent(head, model).touches(path):
        raise HeadError(
            f"the last layer of the head {show(head)} is the model's own, which cannot start at zero: the model would "
            "forget what it has learned. Leave the branch out of zero_heads."
        )
    with torch.no_grad():
        for parameter in head.get_submodule(path).parameters(recurse=False):
            parameter.zero_()
    return head


def scoring_layer(head: nn.Module, feature: Feature) -> str | None:
    """The path of the linear or convolutional layer of a head that runs last, from one run on an empty activation."""
    found: list[str] = []
    p = next(head.parameters(), torch.zeros(()))
    with untouched(head), torch.no_grad():  # takes the hooks away again, too
        for path, layer in head.named_modules():
            if isinstance(layer, (nn.Linear, _ConvNd)):
                layer.register_forward_hook(lambda module, args, output, path=path: found.append(path))
        head(torch.zeros(2, *feature.shape, dtype=p.dtype, device=p.device))
    return found[-1] if found else None


def squared_norm(head: nn.Module, *, but: Collection[str] = ()) -> Tensor:
    """The sum of squares of a head's weights (parameters of 2 or more dimensions; no biases): |w|^2 of DSN.

    `but` names parameters that do not count, because they are the model's.
    """
    weights = [widened(p) for key, p in head.named_parameters() if p.ndim >= 2 and key not in but]
    squares = [w.square().sum() for w in weights]
    return torch.stack(squares).sum() if squares else torch.zeros(())
