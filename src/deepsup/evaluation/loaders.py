"""Where batches come from: our splits, or any iterable a user has, read the same way by the loop."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data.distributed import DistributedSampler

from deepsup.datasets import Split
from deepsup.doctor.batch_checks import begins_with, sizes_of
from deepsup.errors import ConfigError, DatasetError
from deepsup.layers.wrappers import bare
from deepsup.supervision.attaching import supervised_in

Batch = tuple[Any, Any]
Batches = Iterable[Batch] | Callable[[int], Iterable[Batch]]


class Loader(ABC):
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


class SplitLoader(Loader):
    """A split of one of our datasets: its order is a pure function of seed and epoch.

    Batches are made on `device`. With `overlap` they are those of `overlapping`, also from one epoch to the next: the
    first of an epoch begins with the last of the epoch before, and only the very first of all has nothing to repeat.
    """

    draws = False

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        overlap: bool = False,
        balanced: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        if overlap and not shuffle:
            raise ConfigError("overlap=True is for training; batches that are not shuffled are read once each.")
        self.split, self.batch_size, self.device = split, batch_size, device
        self.seed, self.shuffle, self.overlap = seed, shuffle, overlap
        self.rank, self.world, self.balanced = rank, world, balanced

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of this process."""
        if not self.overlap:
            return self._new(epoch, start)
        views = self.split.views
        if start:
            return islice(overlapping(self._new(epoch, start - 1), views=views), 1, None)
        if epoch:
            before = self._new(epoch - 1, self.length - 1)
            return islice(overlapping(chain(before, self._new(epoch, 0)), views=views), 1, None)
        return overlapping(self._new(0, 0), views=views)

    def _new(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches without what overlaps."""
        return self.split.batches(
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            start=start,
            rank=self.rank,
            world=self.world,
            balanced=self.balanced,
            device=self.device,
        )

    @property
    def length(self) -> int:
        """Batches an epoch."""
        return self.split.n_batches(self.batch_size, self.world, shuffle=self.shuffle)

    @property
    def batch_sizes(self) -> set[int]:
        """The full one, what is left for the last batch, and what they make together where batches overlap."""
        new = self.split.sizes(self.batch_size, self.world)
        if self.overlap:
            return {new[0], *(new[k - 1] + new[k] for k in range(len(new)))}
        return {size * self.split.views for size in new}


def overlapping(batches: Iterable[Batch], *, views: int = 1) -> Iterator[Batch]:
    """Batches `(x, y)` of tensors in which every sample comes twice: `[those of the batch before; the new ones]`.

    Example: `for x, y in overlapping(loader): ...`; the first batch has nothing to repeat and is served as it is.

    For DLB (Shen et al. 2022), where a network learns from what it said of the same samples one step ago. The repeated
    half is the very same tensors. With `views=2` each batch is read as a pair of views, `[view 1; view 2]` as a split of
    two views serves them: a sample is new in its view 1 and comes back in its view 2, as in the authors' code.
    """
    before: Batch | None = None
    for x, y in batches:
        new, again = ((x, y), (x, y)) if views == 1 else zip(x.chunk(2), y.chunk(2), strict=True)
        yield new if before is None else (torch.cat([before[0], new[0]]), torch.cat([before[1], new[1]]))
        before = again


def _overlapping_once(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches as `overlapping` gives them, or as they are where the second begins with the new samples of the first."""
    first = list(islice(batches, 2))
    labels = [y for _, y in first if isinstance(y, Tensor)]
    told = len(labels) < len(first)  # of targets that are no tensors the objective says what is wrong
    if len(labels) == 2:
        told = any(begins_with(labels[1], new) for new in (labels[0], labels[0][len(labels[0]) // 2 :]))
    return chain(first, batches) if told else overlapping(chain(first, batches))


class IterableLoader(Loader):
    """A re-iterable of batches (a `DataLoader`, a list), or a function from the epoch's number to batches.

    With `overlap` they are those of `overlapping`, within an epoch, unless they overlap already. `inputs` are how many a batch
    has before its target, None as many as there are.
    """

    def __init__(self, source: Batches, *, overlap: bool = False, inputs: int | None = 1) -> None:
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
        self._source, self.overlap, self._inputs = source, overlap, inputs
        self.draws = not isinstance(source, (list, tuple))

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of the source; the first `start` are read and thrown away, at once."""
        sampler = getattr(self._source, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            sampler.set_epoch(epoch)
        batches = iter(self._source if isinstance(self._source, Iterable) else self._source(epoch))
        if self.overlap:  # from one batch before on
            read = map(self._pair, islice(batches, max(0, start - 1), None))
            return islice(_overlapping_once(read), min(start, 1), None)
        for _ in islice(batches, start):
            pass
        return map(self._pair, batches)

    def _pair(self, batch: Any) -> Batch:
        return paired(batch, self._inputs)

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
        sizes = None if self.overlap else sizes_of(self._source)
        return None if sizes is None else set(sizes)


def as_loader(
    source: Split | Batches | Loader, batch_size: int, *, overlap: bool = False, inputs: int | None = 1, **options: Any
) -> Loader:
    """A loader of whatever the user has, with batches that overlap or not; `options` (seed, shuffle, rank, world, device)
    matter to our splits alone.
    """
    if isinstance(source, Loader):
        return source
    if isinstance(source, Split):
        return SplitLoader(source, batch_size, overlap=overlap, **options)
    return IterableLoader(source, overlap=overlap, inputs=inputs)


def samples_in(y: Any) -> int:
    """How many samples a batch's target is for."""
    if isinstance(y, Mapping):
        return samples_in(y.get("target", y.get("main", next(iter(y.values()), None))))
    if isinstance(y, (tuple, list)) and y and isinstance(y[0], Tensor):  # of mixup, or one for every output
        return samples_in(y[0])
    return len(y) if isinstance(y, Tensor) and y.ndim else 1


def paired(batch: Any, inputs: int | None = 1) -> Batch:
    """A batch as `(x, y)`: a pair as it is, `(a, b, y)` of so many `inputs` (None: of any number) as `((a, b), y)`, a mapping
    with `target` or `labels` as the rest of it and that. Raises `DatasetError` for anything else.
    """
    if isinstance(batch, Mapping):
        named = [key for key in ("target", "labels") if key in batch]
        if len(named) == 1 and len(batch) > 1:
            return {key: value for key, value in batch.items() if key != named[0]}, batch[named[0]]
    elif isinstance(batch, (tuple, list)):
        if len(batch) == 2:
            return batch[0], batch[1]
        if len(batch) > 2 and (inputs is None or len(batch) == inputs + 1):
            return tuple(batch[:-1]), batch[-1]
    length = f" of length {len(batch)}" if isinstance(batch, Sized) else ""
    raise DatasetError(
        f"each batch must be a pair (x, y), inputs and a target where the model needs as many inputs, or a mapping with 'target' "
        f"or 'labels'; found a {type(batch).__name__}{length}. Wrap the source to yield pairs, or give fit forward=."
    )


def inputs_of(net: nn.Module) -> int:
    """How many inputs a net's forward needs, by its signature; 1 where that does not say."""
    target = supervised_in(net)
    try:
        parameters = inspect.signature((target.model if target else bare(net)).forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return max(1, len(needed))
