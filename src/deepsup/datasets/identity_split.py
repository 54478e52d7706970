"""Images of identities: in training with their class, drawn P identities x K images; in validation queries and a gallery."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from deepsup.datasets import identity_draw, identity_views
from deepsup.datasets.folder_split import Epoch, loaded
from deepsup.datasets.image_files import in_colour
from deepsup.datasets.image_ranges import Ranges
from deepsup.datasets.normalisation import IMAGENET_MEAN, IMAGENET_STD
from deepsup.datasets.splits import Split, checked_labels
from deepsup.errors import ConfigError, DatasetError


@final
class IdentitySplit(Split):
    """Images that are resized whole to `shape` and normalised with ImageNet's statistics, each with its identity.

    Without `queries` it is for training: `identities` are classes from 0, and `y` is them. With `per_identity=K` a shuffled
    batch has K images of each of its identities, of different cameras as far as there are with `spread`, see
    `identity_draw`. With `queries` it is searched: rows with True are looked for among the others, `y` is a sample's row,
    and an identity of -1 is junk, 0 a distractor; `more_queries` are further images of queries, and not searched. `cameras` is
    None where none is known. `names` are relative paths; `pictures` are files, or all images as uint8 (R, 3, H, W).
    """

    task = "re-identification"

    def __init__(
        self,
        pictures: Sequence[Path] | Tensor,
        *,
        identities: Tensor,  # (R,), int64
        cameras: Tensor | None,  # (R,), int64
        names: Sequence[str],
        class_names: Sequence[str],
        shape: tuple[int, int],
        queries: Tensor | None = None,  # (R,), bool
        more_queries: Tensor | None = None,  # (R,), bool
        augment: str = "none",
        views: int = 1,
        workers: int = 0,
        ranges: Ranges | None = None,
        per_identity: int = 0,
        spread: bool = False,
    ) -> None:
        super().__init__(
            samples=len(pictures),
            class_names=class_names,
            channels=3,
            shape=shape,
            augment=augment,
            kinds=int(augment.partition("(")[0].strip() != "none"),
            views=views,
        )
        trained = queries is None
        self.labels = checked_labels(identities, classes=self.classes) if trained else torch.arange(len(pictures))
        self.identities, self.cameras, self.names = identities, cameras, tuple(names)
        nothing = torch.zeros(len(pictures), dtype=torch.bool)
        self.queries = nothing if queries is None else queries
        self.more_queries = nothing if more_queries is None else more_queries
        self.paths = () if isinstance(pictures, Tensor) else tuple(pictures)
        self.images = pictures if isinstance(pictures, Tensor) else None
        self.per_identity, self.spread = per_identity, spread
        self.workers, self.ranges = workers, ranges or Ranges()
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self._view = identity_views.view(augment, shape)
        if spread and (not per_identity or cameras is None):
            needed = "data.per_identity, which it spreads" if not per_identity else "cameras, and none is known"
            raise ConfigError(f"spread=true needs {needed}. Leave it out.")

    @property
    def searched(self) -> bool:
        """Whether queries are looked for in a gallery here; else it is for training."""
        return bool(self.queries.any())

    @property
    def gallery(self) -> Tensor:
        """Which rows are searched (R,)."""
        return ~(self.queries | self.more_queries)

    def picture(self, row: int) -> Any:
        """An image as it is stored, PIL's in RGB."""
        if self.images is None:
            return in_colour(self.paths[row], self.ranges)
        return importlib.import_module("PIL.Image").fromarray(self.images[row].permute(1, 2, 0).numpy())

    def pixels(self, row: int) -> Tensor:
        """An image as it is served, before normalisation: uint8 (3, H, W)."""
        return identity_views.view("none", self.shape)(self.picture(row))

    def n_batches(self, batch_size: int, world: int = 1, *, drop_last: bool = False, shuffle: bool = True) -> int:
        """As many as are drawn, exactly, where they are drawn by identity."""
        if not (shuffle and self.per_identity):
            return super().n_batches(batch_size, world, drop_last=drop_last)
        return identity_draw.length(self.labels, at_once=self._at_once(batch_size, world), each=self.per_identity)

    def sizes(self, batch_size: int, world: int = 1) -> list[int]:
        """All full where they are drawn by identity."""
        if not self.per_identity:
            return super().sizes(batch_size, world)
        return [batch_size] * self.n_batches(batch_size, world)

    def _at_once(self, batch_size: int, world: int) -> int:
        """How many identities all processes have in a batch together."""
        if batch_size % self.per_identity:
            raise ConfigError(
                f"batch_size={batch_size} cannot hold {self.per_identity} images of each identity: it is of each process, and "
                "no multiple of per_identity. Choose one."
            )
        at_once, there = batch_size // self.per_identity * world, len(torch.unique(self.labels))
        if at_once > there:
            raise DatasetError(
                f"a batch of {batch_size * world} images, {self.per_identity} of each identity, needs {at_once} identities, and "
                f"there are {there}. Set batch_size to {max(1, there // world) * self.per_identity} or less."
            )
        return at_once

    def _drawn(self, batch_size: int, *, seed: int, epoch: int, rank: int, world: int) -> list[Tensor] | None:
        if not self.per_identity:
            return None
        at_once, cameras = self._at_once(batch_size, world), self.cameras if self.spread else None
        drawn = identity_draw.draw(
            self.labels,
            at_once=at_once,
            each=self.per_identity,
            cameras=cameras,
            seed=seed,
            epoch=epoch,
            rank=rank,
            world=world,
        )
        return list(drawn.flatten(1))

    def _read(
        self, plan: list[Tensor], *, seed: int, epoch: int, device: torch.device | str | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        epoch_of = Epoch(self.picture, self.labels, transforms=(self._view,) * self.views, keys=(seed, epoch))
        return loaded(epoch_of, plan, workers=self.workers, device=device)
