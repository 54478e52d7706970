"""`deepsup score`: the scores of a search whose features lie in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from deepsup.cli.options import AsJson
from deepsup.tasks import retrieval_scores
from deepsup.tasks.feature_distances import DISTANCES
from deepsup.tasks.reranking import KReciprocal
from deepsup.tasks.search_files import Search, read_search


def score(
    file: Annotated[Path, typer.Argument(help="Features and labels: .npz or .safetensors.", show_default=False)],
    distance: Annotated[str, typer.Option(help=f"Between features: {' | '.join(DISTANCES)}.")] = "cosine",
    no_cameras: Annotated[
        bool, typer.Option("--no-cameras", help="Count the query's own identity on its own camera as matches.")
    ] = False,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Re-rank by k-reciprocal neighbours first: k1=20, k2=6, lambda=0.3.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score a search by the protocol of Market-1501: mAP, rank-k and mINP of features from anywhere.

    FILE holds the arrays `query` (Q, D), `gallery` (G, D), `query_identities`, `gallery_identities` and, where known,
    `query_cameras`, `gallery_cameras`. Gallery images of identity -1, and of the query's identity on its own camera, are
    left out of the ranking; identity 0 is wrong for every query. Equal distances rank in the order of the gallery.
    """
    search = read_search(file)
    known = search.query_cameras is not None or search.gallery_cameras is not None
    if no_cameras:
        search = search._replace(query_cameras=None, gallery_cameras=None)
    found = retrieval_scores(*search, distance=distance, rerank=KReciprocal() if rerank else None).metrics()
    typer.echo(json.dumps(found) if as_json else "\n".join([*_table(found), _note(search, known=known)]))


def _table(found: Mapping[str, float]) -> Iterator[str]:
    width = max(map(len, found))
    for name, value in found.items():
        yield f"{name:<{width}}  {f'{value:.2%}' if isinstance(value, float) else f'{value}':>8}"


def _note(search: Search, *, known: bool) -> str:
    """Which images were held to be junk."""
    if search.query_cameras is not None:
        return "left out: identity -1, and the query's own identity on its own camera"
    why = "as asked, cameras do not count" if known else "the file names no cameras"
    return f"{why}: images of the query's own camera are matches; left out: identity -1"
