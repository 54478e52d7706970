"""From an activation to something else than class scores: an embedding, a gate, a plain mean."""

from __future__ import annotations

from typing import Annotated

from torch import nn

from deepsup.features import Feature
from deepsup.heads.build_head import head
from deepsup.heads.modules import (
    GateNorm,
    Mean,
    Pooling,
    chain_shape,
    channels_first,
    initialised,
    pooled,
    separable_chain,
)
from deepsup.specs import STEPS


@head(scores=False, fitted=True)
def embed(
    feature: Feature,
    classes: int,
    *,
    channels: int | None = None,
    steps: Annotated[int | None, STEPS] = None,
    dim: int | None = 128,
) -> nn.Module:
    """The projection head of Contrastive Deep Supervision (Zhang et al. 2022): the convolutions of `sepconv`, global average
    pool, two fully connected layers with ReLU between them to an embedding (N, dim), which is no class score.

    `dim=None` leaves those two out, as the released code does: the embedding then is (N, channels). What the paper has
    there is from memory; two layers are SimCLR's and SupCon's. The losses normalise embeddings, the head does not.
    """
    front = channels_first("embed", feature)
    channels, steps = chain_shape("embed", feature, channels, steps)
    chain = separable_chain(feature.channels, channels, steps)
    project = [] if dim is None else [nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, dim)]
    return initialised(nn.Sequential(*front, *chain, Mean(2, 3), *project))


@head(scores=False)
def gate(feature: Feature, classes: int, *, outputs: int = 3) -> nn.Module:
    """The gate of ONE (Lan et al. 2018): how much each of `outputs` predictions counts in the ensemble, a sample at a time.

    Global average pool, one linear layer, batch normalisation, ReLU, softmax: (N, outputs), each row sums to 1. Reads
    the last map that the branches share. A batch of one sample, which has no variance, is normalised as in evaluation.
    """
    return Pooling(*pooled(feature), nn.Linear(feature.channels, outputs), GateNorm(outputs), nn.ReLU(), nn.Softmax(1))


@head(scores=False)
def mean(feature: Feature, classes: int) -> nn.Module:
    """Global average pooling alone, without parameters: the vector (N, channels) that others are held against."""
    return Pooling(*pooled(feature))
