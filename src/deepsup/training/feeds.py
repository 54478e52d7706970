"""Where batches come from: our splits, or any iterable a user has, read the same way by the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from deepsup.datasets import Split
from deepsup.doctor import rehearsals
from deepsup.errors import ConfigError, DatasetError

Batch = tuple[Any, Any]
Batches = Iterable[Batch] | Callable[[int], Iterable[Batch]]


class Feed(ABC):
    """Batches of `(x, y)`, epoch by epoch, on the CPU or wherever their source puts them."""

    # Whether an epoch's order is drawn from the global random state, so that resuming within it must restore that first.
    draws = True

    @abstractmethod
    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (counted from 0) from batch `start` on."""

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Batches an epoch, or None when the source cannot say."""

    @property
    @abstractmethod
    def batch_sizes(self) -> set[int] | None:
        """The sizes that batches have in this process, or None when the source cannot say without being read."""


class SplitFeed(Feed):
    """A split of one of our datasets: its order is a pure function of seed and epoch."""

    draws = False

    def __init__(
        self, split: Split, batch_size: int, *, seed: int = 0, shuffle: bool = True, rank: int = 0, world: int = 1
    ) -> None:
        self.split, self.batch_size, self.seed, self.shuffle, self.rank, self.world = (
            split, batch_size, seed, shuffle, rank, world,
        )  # fmt: skip

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of this process."""
        return self.split.batches(
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            start=start,
            rank=self.rank,
            world=self.world,
        )

    @property
    def length(self) -> int:
        """Batches an epoch."""
        return self.split.n_batches(self.batch_size, self.world)

    @property
    def batch_sizes(self) -> set[int]:
        """The full one, and what is left for the last batch."""
        each = self.batch_size * self.world
        last = -(-(len(self.split) % each) // self.world)
        return {size for size in (self.batch_size if len(self.split) >= each else 0, last) if size}


class IterableFeed(Feed):
    """A re-iterable of batches (a `DataLoader`, a list), or a function from the epoch's number to batches."""

    def __init__(self, source: Batches) -> None:
        if isinstance(source, Iterator):
            raise ConfigError(
                f"batches must be readable once an epoch; a {type(source).__name__} is used up after one. "
                "Pass a DataLoader, a list, or a function of the epoch that returns an iterator."
            )
        if not isinstance(source, Iterable) and not callable(source):
            raise ConfigError(
                f"cannot read batches from a {type(source).__name__}. Pass a Split, an iterable of (x, y), or a "
                "function of the epoch that returns one."
            )
        self._source = source
        self.draws = not isinstance(source, (list, tuple))

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of the source; the first `start` are read and thrown away, at once."""
        sampler = getattr(self._source, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            sampler.set_epoch(epoch)
        batches = iter(self._source if isinstance(self._source, Iterable) else self._source(epoch))
        for _ in islice(batches, start):
            pass
        return map(_pair, batches)

    @property
    def length(self) -> int | None:
        """What `len` says, if it says anything."""
        try:
            return len(self._source) if isinstance(self._source, Sized) else None
        except TypeError:  # a DataLoader over an iterable dataset has __len__ and no length
            return None

    @property
    def batch_sizes(self) -> set[int] | None:
        """Those of a DataLoader or a list."""
        sizes = rehearsals.sizes_of(self._source)
        return None if sizes is None else set(sizes)


def feed(source: Split | Batches | Feed, batch_size: int, **options: Any) -> Feed:
    """A feed of whatever the user has; `options` (seed, shuffle, rank, world) matter to our splits alone."""
    if isinstance(source, Feed):
        return source
    return SplitFeed(source, batch_size, **options) if isinstance(source, Split) else IterableFeed(source)


def samples_in(y: Any) -> int:
    """How many samples a batch's target is for."""
    return len(y) if isinstance(y, Tensor) and y.ndim else 1


def _pair(batch: Any) -> Batch:
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    length = f" of length {len(batch)}" if isinstance(batch, Sized) else ""
    raise DatasetError(
        f"each batch must be a pair (x, y); found a {type(batch).__name__}{length}. Wrap the source to yield pairs."
    )
