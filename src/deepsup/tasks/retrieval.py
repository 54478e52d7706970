"""How well images of an identity are found among many: the protocol of Market-1501, DukeMTMC, MSMT17 and VeRi.

>>> query, gallery = torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
>>> found = retrieval_scores(query, gallery, [7], [7, 8, 7, 0, 7], distance="euclidean").metrics()
>>> round(found["mAP"], 6), round(found["mAP (trapezoid)"], 6)              # matches at ranks 1, 3 and 5
(0.755556, 0.711111)

The gallery is ranked by distance to each query. Junk is neither right nor wrong and is taken out first: identity -1, and the
query's own identity on its own camera. What is left of the own identity is a match, everything else is wrong, distractors
(identity 0) too. Queries without a match are counted, and count for nothing else. Equally near images rank in gallery order.

Scores are those of a loop in float64 over sorted rankings; memory is 64 MiB beside the features, whatever the gallery.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from deepsup.errors import DatasetError
from deepsup.specs import counted
from deepsup.tasks.feature_distances import Distances, full_precision
from deepsup.tasks.match_ranks import Keys, Own, ranks
from deepsup.tasks.reranking import KReciprocal, Reranked

JUNK, DISTRACTOR = -1, 0
RANKS = (1, 5, 10, 20)
OWN = 2**18  # images of their own identities, at most, unless one query has more


@dataclass(frozen=True)
class RetrievalScores:
    """Of every query (Q,); parts of the queries, scored apart, add up to the scores of all."""

    images: Tensor  # of the query's identity in the gallery, on any camera
    matches: Tensor
    first: Tensor  # rank of the first match, 0 without one
    precision: Tensor  # average precision, 1/n sum_j j / r_j over matches at ranks r_1 < ... < r_n; NaN without a match
    trapezoid: (
        Tensor  # 1/n sum_j ((j - 1) / (r_j - 1) + j / r_j) / 2, a first fraction of 1 where r_j is 1 (Market's Matlab)
    )
    penalty: Tensor  # n / r_n (Ye et al. 2021, AGW)

    def __add__(self, other: RetrievalScores) -> RetrievalScores:
        return RetrievalScores(*(torch.cat([getattr(one, f.name) for one in (self, other)]) for f in fields(self)))

    def of(self, chosen: Tensor) -> RetrievalScores:  # (Q,), bool
        """Those of some of the queries."""
        return RetrievalScores(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def metrics(self) -> dict[str, float]:
        """Means over the queries with a match, as shares in [0, 1], and how many queries there are, with and without.

        mAP is of the sum form (torchreid, fast-reid, scikit-learn); rank-k is the share of queries whose first match is at
        rank k or before. Raises `DatasetError` where no query has a match.
        """
        scored = self.matches > 0
        if not scored.any():
            raise DatasetError(self._nothing_found())
        means = {"mAP": self.precision, "mAP (trapezoid)": self.trapezoid}
        means |= {f"rank-{k}": (self.first <= k).double() for k in RANKS} | {"mINP": self.penalty}
        # An exact sum, so that it is the same in whatever order processes are put together.
        found = {name: math.fsum(each[scored].tolist()) / int(scored.sum()) for name, each in means.items()}
        return {**found, "queries": len(scored), "without match": int((~scored).sum())}

    def _nothing_found(self) -> str:
        if self.images.any():
            return (
                f"no query has a match: {counted(int((self.images > 0).sum()), 'query', 'queries')} find their identity in the "
                "gallery on their own camera alone, which is taken out. Name the true cameras, or score without cameras."
            )
        return (
            f"no query has a match: none of the identities of {counted(len(self.images), 'query', 'queries')} is in the "
            "gallery. Number both alike."
        )


def retrieval_scores(
    query: Tensor,  # (Q, D)
    gallery: Tensor,  # (G, D)
    query_identities: Tensor | Sequence[int],  # (Q,), 1 and up
    gallery_identities: Tensor | Sequence[int],  # (G,), -1 is junk, 0 a distractor
    query_cameras: Tensor | Sequence[int] | None = None,  # (Q,), 0 and up
    gallery_cameras: Tensor | Sequence[int] | None = None,  # (G,)
    *,
    distance: str = "cosine",  # or "euclidean"
    rerank: KReciprocal | None = None,  # by shared neighbours, see `deepsup.tasks.reranking`
    block: int | None = None,  # gallery images at a time; changes no score
) -> RetrievalScores:
    """Rank the gallery for every query and score where its matches are.

    Without cameras every image of the query's identity is a match. Raises `DatasetError` for features and labels that cannot
    be scored, `ConfigError` for a distance that is not there.
    """
    labels = Labels(query_identities, gallery_identities, query_cameras, gallery_cameras)
    with full_precision(query.device):
        distances = Distances(query, gallery, distance, chosen=labels.chosen, block=block)
        labels.check(len(query), len(gallery))
        if rerank is not None:
            reranked = Reranked(query, gallery, distance, rerank, chosen=labels.chosen)
            return labels.scores(reranked.of, at_once=reranked.at_once)
        return labels.scores(distances.of, at_once=distances.at_once)


class Labels:
    """Who is on every image and which camera took it; what of the gallery is junk, and what a match."""

    def __init__(self, query: Any, gallery: Any, query_cameras: Any = None, gallery_cameras: Any = None) -> None:
        self.query, self.gallery = _whole(query, "query_identities"), _whole(gallery, "gallery_identities")
        _least(
            self.query, "query_identities", DISTRACTOR + 1, "1 and up: -1 marks junk and 0 a distractor of the gallery"
        )
        _least(self.gallery, "gallery_identities", JUNK, "-1 (junk), 0 (a distractor), or 1 and up")
        if (query_cameras is None) != (gallery_cameras is None):
            missing = "query_cameras" if query_cameras is None else "gallery_cameras"
            raise DatasetError(
                f"cameras are of both sides or of none; {missing} is not there. Give it, or score without cameras."
            )
        self.cameras: tuple[Tensor, Tensor] | None = None
        if query_cameras is not None:
            self.cameras = _whole(query_cameras, "query_cameras"), _whole(gallery_cameras, "gallery_cameras")
            for name, found in zip(("query_cameras", "gallery_cameras"), self.cameras, strict=True):
                _least(found, name, 0, "0 and up")
        self.chosen = (self.gallery != JUNK).nonzero().flatten()
        ordered, self._order = self.gallery[self.chosen].sort(stable=True)
        self._starts = torch.searchsorted(ordered, self.query)
        self.images = torch.searchsorted(ordered, self.query, right=True) - self._starts

    def check(self, queries: int, gallery: int) -> None:
        """Raise `DatasetError` unless there is one label an image."""
        sides = {"query": (self.query, queries), "gallery": (self.gallery, gallery)}
        names = {f"{side}_identities": found for side, found in sides.items()}
        for side, cameras in zip(sides, self.cameras or (), strict=False):
            names[f"{side}_cameras"] = cameras, sides[side][1]
        for name, (labels, images) in names.items():
            if len(labels) != images:
                raise DatasetError(
                    f"{name} has one number an image; found {len(labels)} for {counted(images, 'image')}."
                )

    def scores(self, keys_of: Callable[[Tensor], Keys], *, at_once: int) -> RetrievalScores:
        """Count, for so many queries at once, where their matches are by the distances of `keys_of`."""
        total = len(self.query)
        matches, first = torch.zeros(total, dtype=torch.int64), torch.zeros(total, dtype=torch.int64)
        precision, trapezoid, penalty = (torch.full((total,), math.nan, dtype=torch.float64) for _ in range(3))
        for rows in self._parts(at_once):
            rows, own = self._own(rows)
            if not len(rows):
                continue
            where, found = ranks(keys_of(rows), own, len(rows))
            matches[rows] = counts = where.bincount(minlength=len(rows))
            for row, part in zip(rows.tolist(), torch.split(found, counts.tolist()), strict=True):
                at = part.tolist()
                first[row], precision[row], trapezoid[row] = at[0], average_precision(at), trapezoid_precision(at)
                penalty[row] = len(at) / at[-1]
        return RetrievalScores(self.images, matches, first, precision, trapezoid, penalty)

    def _parts(self, at_once: int) -> Iterator[Tensor]:
        """Queries whose identity is in the gallery, in order, as many at a time as memory has room for."""
        part: list[int] = []
        own = 0
        for row in self.images.nonzero().flatten().tolist():
            images = int(self.images[row])
            if part and (len(part) == at_once or own + images > OWN):
                yield torch.tensor(part)
                part, own = [], 0
            part.append(row)
            own += images
        if part:
            yield torch.tensor(part)

    def _own(self, queries: Tensor) -> tuple[Tensor, Own]:
        """Those of the queries that have a match, and the gallery images of their identities."""
        images = self.images[queries]
        rows = torch.arange(len(queries)).repeat_interleave(images)
        within = torch.arange(len(rows)) - (images.cumsum(0) - images)[rows]
        columns = self._order[self._starts[queries][rows] + within]
        match = torch.ones_like(rows, dtype=torch.bool)
        if self.cameras is not None:
            match = self.cameras[0][queries][rows] != self.cameras[1][self.chosen][columns]
        scored = rows[match].bincount(minlength=len(queries)) > 0
        kept = scored[rows]
        return queries[scored], Own((scored.cumsum(0) - 1)[rows[kept]], columns[kept], match[kept])


def average_precision(ranks: Sequence[int]) -> float:
    """The sum form, 1/n sum_j j / r_j, of matches at these ranks (from 1, ascending)."""
    return math.fsum(j / rank for j, rank in enumerate(ranks, 1)) / len(ranks)


def trapezoid_precision(ranks: Sequence[int]) -> float:
    """The trapezoid form, 1/n sum_j ((j - 1) / (r_j - 1) + j / r_j) / 2, never higher than the sum form."""
    before = ((j - 1) / (rank - 1) if rank > 1 else 1.0 for j, rank in enumerate(ranks, 1))
    return (math.fsum(before) / len(ranks) + average_precision(ranks)) / 2


def _whole(values: Any, name: str) -> Tensor:
    """Labels as int64 on the CPU. Raises `DatasetError` for what is no row of whole numbers."""
    try:
        found = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DatasetError(f"{name} holds whole numbers, one an image: {error}.") from None
    if found.ndim != 1 or found.dtype == torch.bool or found.is_complex():
        kind = str(found.dtype).removeprefix("torch.")
        raise DatasetError(f"{name} is one row of whole numbers; found {kind} of the shape {tuple(found.shape)}.")
    if found.is_floating_point():
        wrong = (~(found.double().frac() == 0)).nonzero().flatten()  # NaN and infinity have no fraction
        if len(wrong):
            at = int(wrong[0])
            raise DatasetError(f"{name} holds whole numbers; found {float(found[at])} in place {at}.")
    whole = found.to(torch.int64).contiguous()
    wrapped = (found.double().abs() >= 2.0**63).nonzero().flatten()
    if len(wrapped):
        at = int(wrapped[0])
        raise DatasetError(f"{name} holds numbers of 64 bits, below 2**63; found {found[at].item()} in place {at}.")
    return whole


def _least(labels: Tensor, name: str, least: int, says: str) -> None:
    wrong = (labels < least).nonzero().flatten()
    if len(wrong):
        at = int(wrong[0])
        raise DatasetError(f"{name} are {says}; found {int(labels[at])} in place {at}.")
