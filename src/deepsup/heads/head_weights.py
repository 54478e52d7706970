"""The weights of heads: a last layer that starts at zero, and their norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from deepsup.errors import HeadError
from deepsup.features import Feature, widened
from deepsup.heads.build_head import show
from deepsup.layers.snapshot import untouched


def zero(head: nn.Module, feature: Feature) -> nn.Module:
    """The head itself, its last layer set to zero: at first it scores all classes alike, so that the loss of its scores
    sends the trunk no gradient.

    Zero initialisation of auxiliary heads: LION-DG (arXiv 2601.02105). The last layer is the linear or convolutional one
    that runs last on an activation of `feature`, wherever it was registered. Raises `HeadError` where there is none.
    """
    layers = _ran(head, feature)
    if not layers:
        raise HeadError(
            f"the head {show(head)} has no linear or convolutional layer whose weights could start at zero. Leave it out "
            "of zero_heads, or set its last layer to zero yourself."
        )
    with torch.no_grad():
        for parameter in layers[-1].parameters(recurse=False):
            parameter.zero_()
    return head


def _ran(head: nn.Module, feature: Feature) -> list[nn.Module]:
    """The linear and convolutional layers of a head as they run, from one run on an empty activation."""
    found: list[nn.Module] = []
    p = next(head.parameters(), torch.zeros(()))
    with untouched(head), torch.no_grad():  # takes the hooks away again, too
        for layer in head.modules():
            if isinstance(layer, (nn.Linear, _ConvNd)):
                layer.register_forward_hook(lambda module, args, output: found.append(module))
        head(torch.zeros(2, *feature.shape, dtype=p.dtype, device=p.device))
    return found


def squared_norm(head: nn.Module) -> Tensor:
    """The sum of squares of a head's weights (parameters of 2 or more dimensions; no biases): |w|^2 of DSN."""
    weights = [widened(p) for p in head.parameters() if p.ndim >= 2]
    squares = [w.square().sum() for w in weights]
    return torch.stack(squares).sum() if squares else torch.zeros(())
