"""A search over images that were drawn for it, before any data set on disk: queries, then the gallery."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deepsup.datasets import ArraySplit
from tests.support.retrieval_data import search


class SearchSplit(ArraySplit):
    """12 queries and 150 gallery images of 2 x 2 pixels, with junk, distractors and cameras as `retrieval_data` has them."""

    task = "re-identification"

    def __init__(self, seed: int = 0, *, cameras: bool = True) -> None:
        self.search = search(seed, width=4)
        pixels = torch.cat([self.search.query, self.search.gallery]).view(-1, 1, 2, 2)
        super().__init__(pixels, torch.arange(len(pixels)), class_names=[str(i) for i in range(len(pixels))])
        self.identities = torch.cat([self.search.query_identities, self.search.gallery_identities])
        known = torch.cat([self.search.query_cameras, self.search.gallery_cameras])  # type: ignore[list-item]
        self.cameras = known if cameras else None
        self.queries = torch.arange(len(pixels)) < len(self.search.query)
        self.names = tuple(f"{'query' if q else 'gallery'}/{i:03}.png" for i, q in enumerate(self.queries.tolist()))

    def pixels(self, row: int) -> Tensor:
        """An image to be looked at, whose red is its row."""
        shown = torch.full((3, 8, 4), 128, dtype=torch.uint8)
        shown[0] = row
        return shown


def pixels(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Embeddings that need no net: `main` is the pixels, `early` their first two."""
    found = x.flatten(1)
    return {name: nn.functional.normalize(part) for name, part in {"main": found, "early": found[:, :2]}.items()}


def counting(seen: list[int]) -> Callable[[nn.Module, Tensor], dict[str, Tensor]]:
    """The same, which writes down how many images each call has."""

    def run(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
        seen.append(len(x))
        return pixels(net, x)

    return run
