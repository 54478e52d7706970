"""Validation by search: every image is embedded once, by one forward for all outputs, and every output ranks the gallery."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from deepsup.datasets import Split
from deepsup.errors import ConfigError, DatasetError
from deepsup.evaluation.devices import gathered, moved
from deepsup.evaluation.loaders import Loader, SplitLoader
from deepsup.specs import closest, counted
from deepsup.supervision.attaching import supervised_in
from deepsup.supervision.embedding import Embeddings
from deepsup.tasks import KReciprocal, RetrievalScores, retrieval_scores
from deepsup.tasks.reidentification import RE_IDENTIFICATION, Rankings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Extract = Callable[[Tensor], dict[str, Tensor]]
"""From images to embeddings (N, D) by output."""

POOLS = ("mean", "max")


@dataclass(frozen=True)
class How:
    """How a search is made: re-ranked, and with one image a query or all of its identity on its camera (`POOLS`).

    `layer` makes main's scores, where a plain model has to be told; a supervised net knows it by its plan.
    """

    rerank: bool = False
    multi_query: str | None = None
    layer: str | None = None

    def __post_init__(self) -> None:
        if self.multi_query is not None and self.multi_query not in POOLS:
            raise ConfigError(
                f"multi_query={self.multi_query!r}: images of one query become one by "
                f"{' or '.join(POOLS)}, or null.{closest(str(self.multi_query), POOLS)}"
            )


class Embedded(NamedTuple):
    """A split's images by output, (R, D) each in the order of its rows; the same in every process."""

    split: Any
    features: dict[str, Tensor]


def searched(data: object) -> SplitLoader | None:
    """The loader of a split that is searched; None of anything else."""
    split = data.split if isinstance(data, SplitLoader) else data
    queries = getattr(split, "queries", None)  # none of them in training
    if not isinstance(split, Split) or split.task != RE_IDENTIFICATION or queries is None or not queries.any():
        return None
    return data if isinstance(data, SplitLoader) else SplitLoader(split, 256, shuffle=False)


def extractor(net: nn.Module, layer: str | None = None) -> Embeddings:
    """What embeds images for a search: every output of a supervised net, main of a plain model."""
    return Embeddings(net, embedding=None if supervised_in(net) else layer)


def embed(source: Loader, extract: Extract, *, device: torch.device, fabric: Fabric | None = None) -> Embedded:
    """Run every image once, each process its share; memory is the features.

    Raises `DatasetError` with the name of an image whose embedding is not finite.
    """
    assert isinstance(source, SplitLoader)
    split: Any = source.split
    features: dict[str, Tensor] = {}
    for x, rows in source.epoch(0):
        for name, found in extract(moved(x, device)).items():
            if name not in features:
                features[name] = torch.zeros(len(split), found.shape[1], device=device)
            features[name][rows.to(device)] = found.float()
    if fabric is not None and fabric.world_size > 1:
        _share(features, rows=len(split), device=device, fabric=fabric)
    for name, found in features.items():
        wrong = (~found.isfinite().all(1)).nonzero().flatten()
        if len(wrong):
            raise DatasetError(
                f"the embedding of {split.names[int(wrong[0])]} by {name} is NaN or infinite, so that it has no distance to "
                f"anything, and so are those of {counted(len(wrong) - 1, 'other image')}. Train with a lower learning rate."
            )
    return Embedded(split, features)


def _share(features: dict[str, Tensor], *, rows: int, device: torch.device, fabric: Fabric) -> None:
    """Give every process all rows, of which each is not 0 in one alone; one without an image has no output yet."""
    widths = gathered(fabric, {name: found.shape[1] for name, found in features.items()})
    for name, width in {name: width for share in widths for name, width in share.items()}.items():
        torch.distributed.all_reduce(features.setdefault(name, torch.zeros(rows, width, device=device)))


def rankings(found: Embedded, how: How = How(), fabric: Fabric | None = None) -> dict[str, Rankings]:
    """By output where the matches of every query are, exactly; each process ranks its share of the queries.

    Re-ranked they are outputs of their own, `main, re-ranked`. Since that compares queries with queries, too, every process
    ranks all of them.
    """
    rank, world = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    queries = found.split.queries.nonzero().flatten()
    mine = queries.tensor_split(world)[rank]
    scores = {name: _ranked(found, name, mine, how.multi_query) for name in found.features} if len(mine) else {}
    shares = gathered(fabric, scores) if fabric else [scores]
    counts = {name: reduce(operator.add, [share[name] for share in shares if share]) for name in found.features}
    if how.rerank:
        again = {f"{name}, re-ranked": _ranked(found, name, queries, how.multi_query, KReciprocal()) for name in counts}
        counts |= again
    return {name: Rankings(scores) for name, scores in counts.items()}


def _ranked(
    found: Embedded, name: str, rows: Tensor, multi_query: str | None, rerank: KReciprocal | None = None
) -> RetrievalScores:
    """Of the queries in these rows, in the features of one output."""
    split, features = found.split, found.features[name]
    gallery = in_gallery(split).nonzero().flatten()
    query = pooled(found, name, rows, multi_query) if multi_query else features[rows.to(features.device)]
    cameras = (None, None) if split.cameras is None else (split.cameras[rows], split.cameras[gallery])
    labels = split.identities[rows], split.identities[gallery]
    return retrieval_scores(query, features[gallery.to(features.device)], *labels, *cameras, rerank=rerank)


def in_gallery(split: Any) -> Tensor:
    """Which rows of a split are searched (R,)."""
    taken: Tensor = split.queries | _more(split)
    return ~taken


def _more(split: Any) -> Tensor:
    """Which rows are neither searched for nor among, but more images of queries (R,)."""
    more: Tensor | None = getattr(split, "more_queries", None)
    return torch.zeros_like(split.queries, dtype=torch.bool) if more is None else more


def pooled(found: Embedded, name: str, rows: Tensor, how: str) -> Tensor:
    """What is searched with where a query is all images of its identity on its camera: their mean or largest, (n, D)."""
    split, features = found.split, found.features[name]
    able = split.queries | _more(split)
    made = []
    for row in rows.tolist():
        alike = able & (split.identities == split.identities[row])
        alike = alike if split.cameras is None else alike & (split.cameras == split.cameras[row])
        every = features[alike.nonzero().flatten().to(features.device)]
        made.append(every.mean(0) if how == "mean" else every.amax(0))
    return torch.stack(made)
