"""How far embeddings lie from one another: in float32 for every pair, in float64 for the few that an order hangs on.

Both numbers order the gallery of one query. The float32 number is off by at most `QueryDistances.error`, so two images
whose numbers lie further apart are in their true order; of the others the float64 number decides. It is computed pair by
pair on the CPU: equal images get equal numbers whatever block they are met in, and whole numbers exact ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deepsup.errors import ConfigError, DatasetError
from deepsup.specs import closest, counted

DISTANCES = ("cosine", "euclidean")
CELLS = 2**20  # distances in one block
ROWS = 256  # queries in one block
WIDE = 2**19  # numbers in float64 at once, of features; four times as many are held in float32


class Exact(NamedTuple):
    """Of each pair, in float64: what orders the gallery images of a query, and the same on the scale of a block."""

    key: Tensor
    place: Tensor


class Block(NamedTuple):
    """Distances (rows, columns) in float32 of neighbouring queries to neighbouring gallery images."""

    row: int  # of the first query
    column: int  # of the first gallery image
    values: Tensor


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products in true float32 for a while: without TF32, bfloat16 and autocast, whatever is allowed outside."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        try:
            before = torch.get_float32_matmul_precision()
        except RuntimeError:  # it was set by the newer switches, which this one does not understand
            switches = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
            found = [switch.fp32_precision for switch in switches]
            try:
                for switch in switches:
                    switch.fp32_precision = "ieee"
                yield
            finally:
                for switch, precision in zip(switches, found, strict=True):
                    switch.fp32_precision = precision
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


class Distances:
    """All distances between query and gallery features, none of them held.

    `cosine` is 1 - cos, `euclidean` the length of the difference. Of the gallery only the images `chosen` take part, all
    of them by default; a column is an index into `chosen`. `block` is how many gallery images are taken at a time.
    Raises `DatasetError` for features of wrong shapes, NaN, infinity, and of no direction where the cosine is asked for.
    """

    def __init__(
        self,
        query: Tensor,  # (Q, D)
        gallery: Tensor,  # (G, D)
        distance: str = "cosine",
        *,
        chosen: Tensor | None = None,  # (C,) rows of the gallery
        block: int | None = None,
    ) -> None:
        if distance not in DISTANCES:
            raise ConfigError(
                f"no distance is called {distance!r}.{closest(str(distance), DISTANCES)} Known: {', '.join(DISTANCES)}."
            )
        if block is not None and block < 1:
            raise ConfigError(f"a block holds at least 1 gallery image; found block={block}.")
        self.query, self.gallery, self.cosine = query.detach(), gallery.detach(), distance == "cosine"
        self._check_shapes()
        self.width = query.shape[1]
        self.chosen = torch.arange(len(gallery), device=gallery.device) if chosen is None else chosen.to(gallery.device)
        self.step = max(1, WIDE // self.width)
        self.at_once = min(1024, 4 * self.step)  # queries, whose float32 features are held while the gallery goes by
        self.block = min(block or CELLS // ROWS, 4 * self.step)
        largest, self.integral = 0.0, True
        for name, features in (("query", self.query), ("gallery", self.gallery)):
            for first in range(0, len(features), self.step):
                part = features[first : first + self.step].double()
                largest = max(largest, _largest(part, name, first))
                self.integral = self.integral and bool((part == part.round()).all())
        # A power of two costs no digit, and keeps squares of very large and very small features within float64.
        self.scale = 2.0 ** -max(math.frexp(largest)[1], -1000)
        self.centre = torch.zeros(self.width, dtype=torch.float64, device=query.device)
        if not self.cosine:  # distances stay; the float32 products lose fewer digits
            parts = (self.rows(self.gallery, slice(a, a + self.step)).sum(0) for a in range(0, len(gallery), self.step))
            self.centre = sum(parts, self.centre) / len(gallery)
        self.query_norms, self.gallery_norms = self._norms(self.query, "query"), self._norms(self.gallery, "gallery")

    def of(self, rows: Tensor) -> QueryDistances:
        """Those of a few queries."""
        return QueryDistances(self, rows)

    def among(self, chosen: Tensor) -> Distances:
        """The same, of which other gallery images take part."""
        found = copy(self)
        found.chosen = chosen.to(self.gallery.device)
        return found

    def rows(self, features: Tensor, index: Tensor | slice) -> Tensor:
        """Rows (n, D) in float64, scaled and centred."""
        return features[index].double() * self.scale - self.centre

    def units(self, features: Tensor, norms: Tensor, index: Tensor) -> Tensor:
        """Rows (n, D) in float32, of length 1 for the cosine."""
        return torch.cat([self._units(features, norms, part) for part in torch.split(index, self.step)])

    def _units(self, features: Tensor, norms: Tensor, index: Tensor) -> Tensor:
        if not self.cosine:
            return self.rows(features, index).float()
        factor = self.scale / norms[index].sqrt()[:, None]
        if features.dtype != torch.float64 and 1e-30 < factor.min() <= factor.max() < 1e30:
            return features[index].float() * factor.float()  # rounded once more, and a third of the time
        return (features[index].double() * factor).float()

    def _norms(self, features: Tensor, name: str) -> Tensor:
        """Squared lengths in float64."""
        steps = range(0, len(features), self.step)
        norms = torch.cat([self.rows(features, slice(a, a + self.step)).square().sum(1) for a in steps])
        empty = (norms == 0).nonzero().flatten().tolist() if self.cosine else []
        if empty:
            raise DatasetError(
                f"{name} has {counted(len(empty), 'row')} of zeros, which point nowhere, so that there is no cosine: row "
                f"{', '.join(map(str, empty[:5]))}. Take them out, or ask for the distance 'euclidean'."
            )
        return norms

    def _check_shapes(self) -> None:
        for name, features in (("query", self.query), ("gallery", self.gallery)):
            shape = tuple(features.shape)
            if features.ndim != 2 or not all(shape):
                raise DatasetError(
                    f"{name} holds one feature a row, (images, width), at least one; found the shape {shape}."
                )
            if features.is_complex() or features.dtype == torch.bool:
                raise DatasetError(f"{name} holds real numbers; found {str(features.dtype).removeprefix('torch.')}.")
        if self.query.shape[1] != self.gallery.shape[1]:
            raise DatasetError(
                f"query and gallery features are of one width; found {self.query.shape[1]} and {self.gallery.shape[1]}. "
                "Take both from the same layer of the same network."
            )
        if self.query.device != self.gallery.device:
            raise DatasetError(
                f"query and gallery lie on one device; found {self.query.device} and {self.gallery.device}."
            )


@dataclass
class QueryDistances:
    """The distances of some queries to the chosen gallery images."""

    whole: Distances
    index: Tensor  # (R,) rows of the query features

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.whole.query.device

    @property
    def error(self) -> Tensor:
        """By how much a float32 number may be off (R,).

        Rounding errors of a sum of D products grow with the root of D (Higham & Mary 2019); four times their spread and
        what is rounded before and after.
        """
        unit = 2.0**-24 * (8 + 4 * math.sqrt(self.whole.width))
        if self.whole.cosine:
            return torch.full((len(self.index),), unit, dtype=torch.float64)
        farthest = self.whole.gallery_norms.max()
        return (unit * (farthest + 2 * (farthest * self.whole.query_norms[self.index]).sqrt())).cpu()

    def exact(self, rows: Tensor, columns: Tensor) -> Exact:
        """Of the pairs of a query (index into these) and a gallery image (index into the chosen), on the CPU.

        The key is the squared distance, or -cos. Where all features are whole numbers it is -cos |cos| |q|², a quotient of
        two whole numbers, so that equal cosines are equal keys.
        """
        whole, keys = self.whole, []
        index, columns = self.index[rows.to(self.index.device)], whole.chosen[columns.to(whole.chosen.device)]
        for at in zip(torch.split(index, whole.step), torch.split(columns, whole.step), strict=True):
            q, g = (
                f[i].cpu().double().mul_(whole.scale) for f, i in zip((whole.query, whole.gallery), at, strict=True)
            )
            keys.append(q.mul_(g).sum(1) if whole.cosine else q.sub_(g).square_().sum(1))
        key = torch.cat(keys)
        norms = whole.query_norms[index].cpu()
        if not whole.cosine:
            return Exact(key, key - norms)
        lengths = whole.gallery_norms[columns].cpu()
        if whole.integral:
            key = -key * key.abs() / lengths
            return Exact(key, key.sign() * (key.abs() / norms).sqrt())
        key = -key / (norms.sqrt() * lengths.sqrt())
        return Exact(key, key)

    @property
    def base(self) -> Tensor:
        """What a number of a block lacks to a squared distance (R,); of the cosine to half of it, 1 - cos."""
        norms = self.whole.query_norms[self.index].cpu()
        return torch.ones_like(norms) if self.whole.cosine else norms

    def squares(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Squared distances of pairs in float64, on the CPU; of the cosine 1 - cos."""
        key, place = self.exact(rows, columns)
        return 1 + place if self.whole.cosine else key

    def blocks(self) -> Iterator[Block]:
        """All distances in float32, block by block: -cos, or the squared distance less the query's squared length."""
        whole = self.whole
        queries = whole.units(whole.query, whole.query_norms, self.index)
        for first in range(0, len(whole.chosen), whole.block):
            at = whole.chosen[first : first + whole.block]
            g = whole.units(whole.gallery, whole.gallery_norms, at)
            norms = whole.gallery_norms[at].float()
            for row in range(0, len(self.index), ROWS):
                q = queries[row : row + ROWS]
                yield Block(row, first, -(q @ g.T) if whole.cosine else torch.addmm(norms, q, g.T, alpha=-2))


def _largest(part: Tensor, name: str, first: int) -> float:
    """The largest magnitude of some rows, the first of which is row `first`. Raises `DatasetError` unless all are finite."""
    found = part.abs().amax(1)
    wrong = (~found.isfinite()).nonzero().flatten()
    if len(wrong):
        raise DatasetError(
            f"{name} has features that are NaN or infinite, in row {first + int(wrong[0])} first. Look for what made them; "
            "they have no distance to anything."
        )
    return float(found.max())
