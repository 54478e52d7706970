"""k-reciprocal re-ranking by its formulas on whole matrices, as a judge for small sets."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dense_reranking(query: Tensor, gallery: Tensor, distance: str, k1: int, k2: int, weight: float) -> Tensor:
    """The re-ranked distances (Q, G) in float64."""
    every = torch.cat([query, gallery]).double()
    if distance == "cosine":
        every = every / every.norm(dim=1, keepdim=True)
    square = (every[:, None] - every[None]).square().sum(2)
    square = square / square.amax(1, keepdim=True)
    order = square.sort(dim=1, stable=True).indices.tolist()

    def mutual(p: int, k: int) -> set[int]:
        return {g for g in order[p][: k + 1] if p in order[g][: k + 1]}

    shares = torch.zeros_like(square)
    for p in range(len(every)):
        close = mutual(p, k1)
        extended = set(close)
        for q in close:
            around = mutual(q, round(k1 / 2))
            if len(around & close) > 2 / 3 * len(around):
                extended |= around
        weights = {g: math.exp(-float(square[p, g])) for g in extended}
        for g, value in weights.items():
            shares[p, g] = value / sum(weights.values())
    if k2 > 1:
        shares = torch.stack([shares[torch.tensor(row[:k2])].mean(0) for row in order])
    common = torch.stack([torch.minimum(shares[p], shares).sum(1) for p in range(len(query))])[:, len(query) :]
    return (1 - weight) * (1 - common / (2 - common)) + weight * square[: len(query), len(query) :]
