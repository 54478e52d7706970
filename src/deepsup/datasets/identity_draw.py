"""Batches of P identities with K images each, as losses that compare identities want them.

Every identity's images are shuffled and cut into chunks of K; one with fewer than K images repeats them, what is left over
waits for another epoch. The chunks are dealt out to T batches, identity by identity, so that no batch holds an identity twice
and every batch is full. T is the largest number for which that works, and hangs on the identities alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepsup.datasets.splits import generator
from deepsup.errors import ConfigError, DatasetError
from deepsup.specs import counted


def draw(
    identities: Tensor | Sequence[int],  # (N,), who is on each image
    *,
    at_once: int = 16,  # identities in a batch: P
    each: int = 4,  # images of each: K
    cameras: Tensor | None = None,  # (N,): K images of different ones, as far as there are
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Tensor:
    """The images of an epoch's batches (T, P / world, K), of the process `rank`: a pure function of what is given.

    Within an epoch, batches may be left out to resume. Raises `ConfigError` where P cannot be shared out in whole identities,
    `DatasetError` where there are fewer than P.
    """
    if at_once % world:
        raise ConfigError(
            f"{at_once} identities a batch cannot be shared out to {counted(world, 'process', 'processes')} whole: choose a "
            f"multiple of {world}."
        )
    labels = torch.as_tensor(identities)
    batches = length(labels, at_once=at_once, each=each)
    source = generator("identities", seed, epoch)
    order = torch.randperm(len(labels), generator=source)
    order = order[labels[order].sort(stable=True).indices]  # identity by identity, each one's images shuffled
    groups = torch.split(order, torch.unique(labels, return_counts=True)[1].tolist())
    chunks: list[Tensor] = []
    for i in torch.randperm(len(groups), generator=source).tolist():
        images = groups[i]
        if len(images) < each:
            images = images.repeat(-(-each // len(images)))[:each]
        cut = images[: len(images) // each * each]
        if cameras is None:
            chunks += cut.view(-1, each)[:batches]
        else:
            spread = cut[cameras[cut].sort(stable=True).indices].view(each, -1).T  # every c-th, camera by camera
            chunks += spread[torch.randperm(len(spread), generator=source)][:batches]
    dealt = torch.stack(chunks[: batches * at_once]).view(at_once, batches, each)  # one after the other, batch by batch
    return dealt.transpose(0, 1)[torch.randperm(batches, generator=source), rank::world]


def length(
    identities: Tensor | Sequence[int],  # (N,)
    *,
    at_once: int = 16,
    each: int = 4,
) -> int:
    """How many batches an epoch has: the largest T for which sum_i min(c_i, T) >= P T, c_i the chunks of identity i."""
    for name, value in (("at_once", at_once), ("each", each)):
        if value < 1:
            raise ConfigError(f"batches by identity need {name} to be a whole number of at least 1; found {value}.")
    chunks = (torch.unique(torch.as_tensor(identities), return_counts=True)[1] // each).clamp(min=1)
    if len(chunks) < at_once:
        raise DatasetError(
            f"a batch of {at_once} different identities needs as many; found {counted(len(chunks), 'identity', 'identities')}. "
            "Ask for fewer at once."
        )
    low, high = 1, int(chunks.sum()) // at_once
    while low < high:  # where T works, every smaller one does
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(chunks.clamp(max=middle).sum()) >= at_once * middle else (low, middle - 1)
    return low
