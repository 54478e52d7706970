"""The batching contract: which samples are in which batch, as a pure function of (seed, epoch).

A run that was interrupted after k batches of an epoch continues with `batches(..., start=k)` and sees what it would
have seen; no sampler state has to be stored, and the global random state is never read or written.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from deepsup.errors import ConfigError, DatasetError


class Split(ABC):
    """The training or the validation half of a dataset.

    Example: `for x, y in split.batches(32, seed=0, epoch=0, shuffle=True): ...`

    `x` is float32 `(N, channels, H, W)`, normalised, with H and W in `shape`. `task` says what `y` is: for "classification"
    `(N,)`, int64 from 0 to `classes` - 1, for "segmentation" `(N, H, W)` of the same, and -100 where a pixel does not count;
    for "labels" 0 or 1 and for "values" numbers, `(N, classes)` in float32, or `(N, classes, H, W)`, NaN
    where one does not count. With `views=2` both
    are `(2 N, ...)`: a first augmented view of every sample, then a second one in the same order, each drawn for itself, and
    the labels twice. `samples` is how many an epoch has, `kinds` how many different views the augmentation describes.
    """

    task: str = "classification"

    def __init__(
        self,
        *,
        samples: int,
        class_names: Sequence[str],
        channels: int,
        shape: tuple[int, int],
        augment: str,
        kinds: int,
        views: int,
    ) -> None:
        self.class_names = tuple(class_names)
        self.channels = channels
        self.shape = shape
        self.augment = augment
        self.views = _checked_views(views, kinds=kinds, augment=augment)
        self._samples = samples
        if not samples:
            raise DatasetError("a split needs at least one labelled image; this one is empty.")

    def __len__(self) -> int:
        return self._samples

    def __repr__(self) -> str:
        shape = f"{self.channels}x{self.shape[0]}x{self.shape[1]}"
        views = f", views={self.views}" if self.views > 1 else ""
        return f"{type(self).__name__}({len(self)} images {shape}, {self.classes} classes, augment={self.augment!r}{views})"

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def n_images(self) -> int:
        """How many images the samples are from."""
        return len(self)

    @property
    def size(self) -> int:
        """The side of an image, of one that is not square the longer side."""
        return max(self.shape)

    def n_batches(self, batch_size: int, world: int = 1, *, drop_last: bool = False, shuffle: bool = True) -> int:
        """How many batches each process gets; `batch_size` is per process, `shuffle` what `batches` is told.

        Example: `split.n_batches(32)`. Without shuffling the last processes may get one batch less (see `batches`).
        """
        _check_counts(batch_size=batch_size, start=0, rank=0, world=world)
        return count_batches(len(self), batch_size * world, drop_last=drop_last)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        shuffle: bool,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        balanced: bool = False,
        device: torch.device | str | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one epoch for one process, from batch `start` on; skipped batches are never read.

        Example: `next(split.batches(32, seed=0, epoch=3, shuffle=True, start=10))` is the 11th batch of epoch 3.

        `batch_size` is per process: a global batch has `batch_size * world` samples and each rank reads its own
        slice. With `shuffle` (training) the last global batch is filled up from the epoch's first samples until
        `world` divides it, so that all ranks take the same number of steps with equally large batches. Without
        (evaluation) every sample is read exactly once over all ranks, in order, so that the last ranks may get a
        smaller last batch or none. `balanced` draws training samples as `balanced_order` does. `drop_last` leaves out an
        incomplete global batch. Augmentation, if the split has one, is a function of (seed, epoch, sample, view), whatever
        batch the sample is in and whoever reads it. On `device` (None: where the split's images are) the batches arrive.
        Raises ConfigError for impossible counts and for `balanced` without a class a sample, DatasetError for an image that
        cannot be read or when `drop_last` leaves nothing.
        """
        _check_counts(batch_size=batch_size, start=start, rank=rank, world=world)
        if drop_last and not self.n_batches(batch_size, world, drop_last=True):
            raise DatasetError(
                f"drop_last leaves no batch: {len(self)} images are fewer than one global batch of "
                f"{batch_size} x {world}. Use a smaller batch size, or keep the last batch."
            )
        order = epoch_order(len(self), seed=seed, epoch=epoch) if shuffle else torch.arange(len(self))
        if balanced and shuffle:
            order = balanced_order(self._classes_of_samples(), seed=seed, epoch=epoch)
        plan = shares(
            order, batch_size=batch_size, rank=rank, world=world, start=start, pad=shuffle, drop_last=drop_last
        )
        drawn = self._drawn(batch_size, seed=seed, epoch=epoch, rank=rank, world=world) if shuffle else None
        return self._read(list(plan) if drawn is None else drawn[start:], seed=seed, epoch=epoch, device=device)

    def _classes_of_samples(self) -> Tensor:
        """The class of each sample."""
        labels = getattr(self, "labels", None)
        if not isinstance(labels, Tensor) or labels.ndim != 1 or self.task != "classification":
            raise ConfigError(f"balanced=True needs one class an image, and {type(self).__name__} has none.")
        return labels.cpu()

    def _drawn(self, batch_size: int, *, seed: int, epoch: int, rank: int, world: int) -> list[Tensor] | None:
        """The rows of an epoch's training batches, where they are not just shuffled."""
        return None

    def sizes(self, batch_size: int, world: int = 1) -> list[int]:
        """How many new samples the batches of one process have when they are shuffled: all full but perhaps the last."""
        each = batch_size * world
        last = -(-(len(self) % each) // world)
        return [batch_size] * (len(self) // each) + ([last] if last else [])

    @abstractmethod
    def _read(
        self, plan: list[Tensor], *, seed: int, epoch: int, device: torch.device | str | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Turn each batch's rows into the batch."""


def checked_labels(labels: Tensor, *, classes: int) -> Tensor:
    """One label a sample as int64, or DatasetError where there are more labels than classes have names."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        low, high = int(labels.min()), int(labels.max())
        raise DatasetError(f"labels go from {low} to {high}, but {classes} classes have names.")
    return labels.to(torch.int64)


def epoch_order(length: int, *, seed: int, epoch: int) -> Tensor:
    """The permutation of one epoch, from its own generator.

    Example: `epoch_order(4, seed=0, epoch=0)` is a permutation of 0, 1, 2, 3 as an int64 tensor.
    """
    return torch.randperm(length, generator=generator("order", seed, epoch))


def balanced_order(labels: Tensor, *, seed: int, epoch: int) -> Tensor:
    """As many samples as there are `labels` (N,), drawn with replacement so that every class that occurs is as likely.

    Example: `balanced_order(torch.tensor([0, 0, 0, 1]), seed=0, epoch=0)` has each class twice in the mean.
    """
    chance = 1 / torch.bincount(labels).double()[labels]
    return torch.multinomial(chance, len(labels), replacement=True, generator=generator("balanced", seed, epoch))


def shares(
    order: Tensor, *, batch_size: int, rank: int, world: int, start: int, pad: bool, drop_last: bool
) -> Iterator[Tensor]:
    """Cut `order` into global batches and each of those into one slice a rank; yields the slices of `rank`."""
    width = batch_size * world
    for batch in range(start, count_batches(len(order), width, drop_last=drop_last)):
        rows = order[batch * width : (batch + 1) * width]
        missing = -len(rows) % world if pad else 0
        if missing:
            rows = torch.cat([rows, order.repeat(-(-missing // len(order)))[:missing]])
        each = -(-len(rows) // world)
        mine = rows[rank * each : (rank + 1) * each]
        if len(mine):
            yield mine


def count_batches(length: int, width: int, *, drop_last: bool) -> int:
    """How many batches of `width` samples `length` samples make."""
    return length // width if drop_last else -(-length // width)


def generator(*keys: str | int) -> torch.Generator:
    """A CPU generator whose stream depends on the keys alone; nearby keys give unrelated streams."""
    return torch.Generator().manual_seed(derived_seed(*keys))


def derived_seed(*keys: str | int) -> int:
    """A seed from 0 to 2**63 - 1 out of any words and numbers."""
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def sent(tensor: Tensor, device: torch.device | str | None) -> Tensor:
    """The tensor on that device; on its way to a GPU the host does not wait for it."""
    if device is None or torch.device(device).type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def _checked_views(views: int, *, kinds: int, augment: str) -> int:
    if views not in (1, 2):
        raise ConfigError(f"views={views} must be 1 or 2.")
    if views == 2 and not kinds:
        raise ConfigError(
            f"views=2 with augment={augment!r} would show every image twice as it is. Choose an augmentation, such as "
            "standard, or views=1."
        )
    if kinds > views:
        raise ConfigError(
            f"augment={augment!r} describes a pair of different views. Set views=2, or choose an augmentation of one "
            "view, such as standard."
        )
    return views


def _check_counts(*, batch_size: int, start: int, rank: int, world: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1.")
    if start < 0:
        raise ConfigError(f"start={start} must be 0 or more: it is the number of batches to skip.")
    if not 0 <= rank < world:
        raise ConfigError(f"rank={rank} must be at least 0 and below world={world}, the number of processes.")
