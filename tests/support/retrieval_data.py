"""Small query and gallery sets with junk and distractors, and the slow loop in float64 that judges their scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepsup.tasks.search_files import Search


def search(
    seed: int, *, whole: bool = False, offset: float = 0.0, queries: int = 12, gallery: int = 150, width: int = 6
) -> Search:
    """Features by chance, whole numbers from -2 to 2 if wanted, a third of the gallery doubled, 7 identities, 3 cameras."""
    chance = torch.Generator().manual_seed(seed)

    def features(n: int) -> Tensor:
        if whole:
            return torch.randint(-2, 3, (n, width), generator=chance).float() + torch.tensor(
                [3.0] + (width - 1) * [0.0]
            )
        return torch.randn(n, width, generator=chance) + offset

    def labels(n: int, least: int, most: int) -> Tensor:
        return torch.randint(least, most + 1, (n,), generator=chance)

    query, found = features(queries), features(gallery)
    third = torch.randint(0, gallery, (gallery // 3,), generator=chance)
    found[third] = found[third.roll(1)]
    identities = labels(queries, 1, 7), labels(gallery, -1, 7)
    return Search(query, found, *identities, labels(queries, 0, 2), labels(gallery, 0, 2))


def slow_ranks(data: Search, distance: str) -> list[list[int]]:
    """By query the ranks of its matches, from a stable sort of distances in float64, image by image."""
    query, gallery = data.query.double(), data.gallery.double()
    if distance == "cosine":
        query, gallery = (side / side.norm(dim=1, keepdim=True) for side in (query, gallery))
    far = [1 - (gallery * q).sum(1) if distance == "cosine" else (gallery - q).square().sum(1) for q in query]
    return ranks_by(data, torch.stack(far))


def ranks_by(data: Search, far: Tensor) -> list[list[int]]:
    """The same by given distances (Q, G)."""
    return [_ranks(data, i, row.sort(stable=True).indices.tolist()) for i, row in enumerate(far)]


def _ranks(data: Search, i: int, order: list[int]) -> list[int]:
    identities, rank, ranks = data.gallery_identities.tolist(), 0, []
    cameras = data.gallery_cameras.tolist() if data.gallery_cameras is not None else [None] * len(order)
    identity = int(data.query_identities[i])
    camera = int(data.query_cameras[i]) if data.query_cameras is not None else -1
    for j in order:
        if identities[j] == -1 or (identities[j] == identity and cameras[j] == camera):
            continue
        rank += 1
        if identities[j] == identity:
            ranks.append(rank)
    return ranks


def slow_metrics(ranks: list[list[int]]) -> dict[str, Any]:
    """The metrics of such ranks, by their definitions."""
    scored = [r for r in ranks if r]

    def mean(values: list[float]) -> float:
        return sum(values) / len(scored)

    def steps(rank: int, j: int) -> float:
        return ((1.0 if rank == 1 else (j - 1) / (rank - 1)) + j / rank) / 2

    return {
        "mAP": mean([sum(j / rank for j, rank in enumerate(r, 1)) / len(r) for r in scored]),
        "mAP (trapezoid)": mean([sum(steps(rank, j) for j, rank in enumerate(r, 1)) / len(r) for r in scored]),
        **{f"rank-{k}": mean([float(r[0] <= k) for r in scored]) for k in (1, 5, 10, 20)},
        "mINP": mean([len(r) / r[-1] for r in scored]),
        "queries": len(ranks),
        "without match": len(ranks) - len(scored),
    }


def peak_bytes(call: Any) -> int:
    """What PyTorch's allocator hands out at most during a call, above what stood before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    now = highest = 0
    changes = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for change in sorted(changes, key=lambda e: e.start_ns()):
        now += change.nbytes()
        highest = max(highest, now)
    return highest
