"""What a search found, to be looked at: the first of the ranking of some queries, and the curves over all of them.

A finished run keeps it in RUN/search: `search.json`, and a picture for each query that is shown.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from deepsup import ownership
from deepsup.evaluation.search import Embedded, How, in_gallery, pooled, rankings
from deepsup.tasks import KReciprocal, RetrievalScores, match_pictures
from deepsup.tasks.feature_distances import Distances, full_precision
from deepsup.tasks.match_pictures import Found
from deepsup.tasks.nearest import nearest
from deepsup.tasks.reidentification import Rankings, keep_answers
from deepsup.tasks.reranking import Reranked
from deepsup.tasks.retrieval import JUNK

FOLDER: Final = "search"
FILE: Final = "search.json"
SHOWN: Final = 4
"""Queries: the first, and those of the lowest average precision by main."""

TOP: Final = 10
CURVE: Final = 50
"""Ranks that the curves go to."""


class Ranked(NamedTuple):
    """The first images of a ranking: which of the gallery, and how far they are."""

    columns: list[int]
    distances: list[float]


def first(
    query: Tensor,  # (Q, D)
    gallery: Tensor,  # (G, D)
    chosen: Tensor | None = None,  # (C,) which of the gallery take part, all if None
    *,
    top: int = TOP,
    rerank: bool = False,
) -> list[Ranked]:
    """The nearest to each query by cosine, exactly, ties in the order of the gallery; distances are 1 - cos.

    Re-ranked by the distances of `KReciprocal`, from 0 to 1, with neighbours among the whole gallery.
    """
    with full_precision(gallery.device):
        whole = Distances(query, gallery, chosen=chosen)
        if rerank:
            return _reranked(Reranked(query, gallery, "cosine", KReciprocal(), chosen=whole.chosen.cpu()), whole, top)
        near = nearest(whole, top).near
        rows = torch.arange(len(query)).repeat_interleave(near.shape[1])
        far = whole.of(torch.arange(len(query))).squares(rows, near.flatten()).view_as(near)
    columns = whole.chosen.cpu()[near].tolist()
    return [Ranked(*each) for each in zip(columns, far.tolist(), strict=True)]


def _reranked(how: Reranked, whole: Distances, top: int) -> list[Ranked]:
    """The same of re-ranked distances, the rows of a few queries at a time."""
    found = []
    for rows in torch.split(torch.arange(len(whole.query)), how.at_once):
        far = torch.empty(len(rows), len(whole.chosen))
        for row, column, values in how.of(rows).blocks():
            far[row : row + len(values), column : column + values.shape[1]] = values
        order = far.sort(dim=1, stable=True)
        columns = whole.chosen.cpu()[order.indices[:, :top]].tolist()
        found += [Ranked(*each) for each in zip(columns, order.values[:, :top].tolist(), strict=True)]
    return found


def keep(folder: Path, found: Embedded, how: How, *, metric: str) -> None:
    """Write what the report shows of a search, and `answers.json`, into a run's folder."""
    counts = rankings(found, How(multi_query=how.multi_query))
    queried = found.split.queries.nonzero().flatten()
    keep_answers(folder, counts["main"].scores, found.split.identities[queried], metric)
    rows = queried.tolist()
    queries = [
        _query(folder, found, counts, number, query, rows[query], how)
        for number, query in enumerate(_shown(counts["main"].scores))
    ]
    told = {
        "format": 1,
        "cameras": found.split.cameras is not None,
        "cmc": {name: curve(own.scores) for name, own in counts.items()},
        "queries": queries,
    }
    ownership.write_text(folder, f"{FOLDER}/{FILE}", json.dumps(told, indent=1) + "\n")


def curve(scores: RetrievalScores) -> list[float]:
    """The share of queries with a match whose first one has a rank up to 1, 2, ... (CMC)."""
    firsts = scores.first[scores.matches > 0]
    return [float((firsts <= rank).double().mean()) for rank in range(1, CURVE + 1)]


def _shown(scores: RetrievalScores) -> list[int]:
    """The first query that has a match, and the worst of the others, the worst first."""
    able = (scores.matches > 0).nonzero().flatten()
    worst = able[1:][scores.precision[able[1:]].sort(stable=True).indices]
    return [*able[:1].tolist(), *worst[: SHOWN - 1].tolist()]


def _query(
    folder: Path, found: Embedded, counts: dict[str, Rankings], number: int, query: int, row: int, how: How
) -> dict[str, Any]:
    """Draw one query with what each output found; its entry in `search.json`."""
    split, at = found.split, torch.tensor([row])
    identity = int(split.identities[row])
    own = split.identities == identity
    own = own & (split.cameras == split.cameras[row]) if split.cameras is not None else own & False
    chosen = (in_gallery(split) & (split.identities != JUNK) & ~own).nonzero().flatten()
    told: dict[str, Any] = {}
    drawn: dict[str, Sequence[Found]] = {}
    for name, features in found.features.items():
        asked = pooled(found, name, at, how.multi_query) if how.multi_query else features[row][None]
        (ranked,) = first(asked, features, chosen)
        right = (split.identities[ranked.columns] == identity).tolist()
        precision = float(counts[name].scores.precision[query])
        told[name] = {
            "precision": precision,
            "found": [split.names[column] for column in ranked.columns],
            "distances": ranked.distances,
            "right": right,
        }
        pixels = [_pixels(split, column) for column in ranked.columns]
        drawn[f"{name}: average precision {precision:.1%}"] = [
            Found(*each) for each in zip(pixels, ranked.distances, right, strict=True)
        ]
    shown, file = io.BytesIO(), f"{number}.png"
    match_pictures.picture(_pixels(split, row), drawn).save(shown, format="PNG")
    ownership.write(folder, f"{FOLDER}/{file}", lambda place: place.write_bytes(shown.getvalue()))
    return {"name": split.names[row], "identity": identity, "file": file, "outputs": told}


def _pixels(split: Any, row: int) -> Any:
    """An image as it is served, (H, W, 3)."""
    return split.pixels(row).permute(1, 2, 0).contiguous().numpy()
