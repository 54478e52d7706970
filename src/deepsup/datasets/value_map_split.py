"""Images with a number, or several, for every pixel, both moved alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from deepsup.datasets.folder_split import collated
from deepsup.datasets.image_survey import gathered
from deepsup.datasets.normalisation import IMAGENET_MEAN, IMAGENET_STD
from deepsup.datasets.pairs import MEMORY, Pair
from deepsup.datasets.splits import Split, generator, sent
from deepsup.datasets.value_maps import Mapped, MapReader, seen
from deepsup.datasets.whole_images import WHOLE
from deepsup.errors import DatasetError


@final
class ValueMapSplit(Split):
    """Whole images and their values, resized by the reader, kept in memory while all of them need less than `memory` bytes.

    `y` is float32 `(N, C, H, W)`, NaN where a value does not count. `augment` is "none" or "flips", which mirrors half of the
    images with their maps. `workers` processes read ahead; they change no batch. `known`, `low`, `mean_value` and `high` say how
    many values of each channel count, and which they are. Raises DatasetError for maps that cannot be read, and for such of
    unequal size or number of channels.
    """

    task = "values"

    def __init__(
        self, pairs: Sequence[Pair], reader: MapReader, *, augment: str = "none", workers: int = 0, memory: int = MEMORY
    ) -> None:
        made, _ = WHOLE.read(augment)
        found = gathered(lambda pair: seen(reader(pair)), pairs, what="maps")
        for pair, one in zip(pairs, found, strict=True):
            if (one.shape, len(one.known)) != (found[0].shape, len(found[0].known)):
                raise DatasetError(
                    f"{pair.mask} has {len(one.known)} channels of {one.shape[0]}x{one.shape[1]}, and {pairs[0].mask} "
                    f"{len(found[0].known)} of {found[0].shape[0]}x{found[0].shape[1]}. Take maps of one kind, and set a size to "
                    "which all are resized."
                )
        channels = len(found[0].known) if found else 1
        shape = found[0].shape if found else (1, 1)
        super().__init__(
            samples=len(pairs),
            class_names=["value"] if channels == 1 else [f"value {n + 1}" for n in range(channels)],
            channels=3,
            shape=shape,
            augment=augment,
            kinds=int(made != "none"),
            views=1,
        )
        self.known = torch.stack([one.known for one in found]).sum(0)
        self.low = torch.stack([one.low for one in found]).amin(0)
        self.high = torch.stack([one.high for one in found]).amax(0)
        self.mean_value = torch.stack([one.total for one in found]).sum(0) / self.known.clamp(min=1)
        self.paths = tuple(pair.image for pair in pairs)
        self.ranges, self.workers, self.mirrors = reader.ranges, workers, made == "flips"
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self._pairs, self._reader = tuple(pairs), reader
        fits = (3 + 4 * channels) * shape[0] * shape[1] * len(pairs) <= memory
        self._kept = gathered(reader, pairs, what="maps") if fits else None

    def at(self, index: int) -> Mapped:
        """One image and its values, as they are served but for normalisation and augmentation."""
        return self._reader(self._pairs[index]) if self._kept is None else self._kept[index]

    def _read(
        self, plan: list[Tensor], *, seed: int, epoch: int, device: torch.device | str | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            _Epoch(self, keys=(seed, epoch)),
            batch_sampler=[rows.tolist() for rows in plan],
            num_workers=self.workers,
            collate_fn=collated,
            generator=torch.Generator(),  # otherwise the loader would draw from the global stream
        )
        mean, std = (value.view(1, 3, 1, 1).to(device) for value in (self.mean, self.std))
        for batch in loader:
            if isinstance(batch, DatasetError):
                raise batch
            images, values = (sent(part, device) for part in batch)
            yield (images.to(torch.float32) / 255 - mean) / std, values


class _Epoch(TorchDataset[Any]):
    """One epoch: item i is the same whoever reads it and whenever."""

    def __init__(self, split: ValueMapSplit, *, keys: tuple[int, int]) -> None:
        self.split, self.keys = split, keys

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | DatasetError:
        try:
            image, values = self.split.at(index)
        except DatasetError as error:
            return error  # returned, since an exception in a worker arrives wrapped in that worker's traceback
        if self.split.mirrors and int(torch.randint(2, (), generator=generator("augment", *self.keys, index))):
            image, values = image.flip(2), values.flip(2)
        return image[None], values
