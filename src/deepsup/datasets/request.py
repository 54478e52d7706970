"""What is asked of a data set, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from deepsup.datasets.found import Files, Found, found
from deepsup.datasets.label_map_split import MapSplit
from deepsup.datasets.splits import Split, generator
from deepsup.errors import DatasetError
from deepsup.specs import counted

DEFAULT_ROOT = Path("data")
_NOUNS = {
    "labels": ("label", "labels"),
    "values": ("value", "values"),
    "re-identification": ("identity", "identities"),
}


@dataclass(frozen=True)
class Dataset:
    """A dataset's two splits; both have the same classes and the same channels.

    Example: `load("digits").train.batches(32, seed=0, epoch=0, shuffle=True)`.
    """

    name: str
    train: Split
    validation: Split
    files: Files | None = field(default=None, compare=False)

    @property
    def found(self) -> Found:
        """What it consists of: images, classes and their shares, sizes, values, what was not read; `print` shows it."""
        return found(self.train, self.validation, self.files)

    @property
    def task(self) -> str:
        """One of `deepsup.tasks.TASKS`: "classification", "segmentation" where every pixel has a label, "labels", "values",
        "tokens", "re-identification".
        """
        return self.train.task

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.train.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, by label."""
        return self.train.class_names

    @property
    def channels(self) -> int:
        """Channels of an image: 1 or 3; of tokens how many symbols there are."""
        return self.train.channels

    @property
    def size(self) -> int:
        """The side of a training image in pixels, as it is served; of one that is not square the longer side."""
        return self.train.size

    def __str__(self) -> str:
        height, width = self.train.shape
        if self.task == "tokens":
            sizes = f"{self.train.n_images} training and {self.validation.n_images} validation sequences of {width}"
            return f"{self.name}: {sizes}, {self.channels} symbols, {counted(self.classes, 'class', 'classes')}"
        nouns = _NOUNS.get(self.task, ("class", "classes"))
        patches = ""
        if isinstance(self.train, MapSplit) and self.train.crop:
            patches = f" ({len(self.train)} patches an epoch)"
        return (
            f"{self.name}: {self.train.n_images} training{patches} and {self.validation.n_images} validation images, "
            f"{self.channels}x{height}x{width}, {counted(self.classes, *nouns)}"
        )


@dataclass(frozen=True)
class Request:
    """What `load` was asked for, checked."""

    name: str
    root: Path | None
    download: bool
    size: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    patches: int
    augment: str
    prepare: str
    views: int
    classes: int | None
    limit: int | None
    seed: int
    workers: int
    per_identity: int = 0
    spread: bool = False

    @property
    def side(self) -> int | None:
        """`size` of square images."""
        assert not isinstance(self.size, tuple)
        return self.size

    def known(self, class_names: Sequence[str]) -> list[str]:
        """The names of the classes that are kept, or DatasetError when there are fewer than that."""
        if self.classes is not None and self.classes > len(class_names):
            raise DatasetError(f"classes={self.classes}, but {self.name} has only {len(class_names)} classes.")
        return list(class_names[: self.classes])

    def among(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The samples of the classes that are kept."""
        if self.classes is None:
            return images, labels
        kept = labels < self.classes
        return images[kept], labels[kept]

    def kept(self, values: Tensor) -> Tensor:
        """Of all training samples' `values`, the first `limit` in an order that depends on the seed alone."""
        if self.limit is None or self.limit >= len(values):
            return values
        return values[torch.randperm(len(values), generator=generator("limit", self.seed))[: self.limit]]
