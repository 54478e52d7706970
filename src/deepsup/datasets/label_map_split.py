"""Images with a label for every pixel: patches or whole images for training, whole images for validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from deepsup.datasets import paired_transforms
from deepsup.datasets.mask_files import VOID, Colour
from deepsup.datasets.paired_transforms import Joint, Pixels
from deepsup.datasets.pairs import Pairs
from deepsup.datasets.splits import Split, generator, sent
from deepsup.datasets.transforms import RANGE
from deepsup.errors import ConfigError, DatasetError

IGNORE = -100  # as `losses.IGNORE`: labels that do not count


@final
class MapSplit(Split):
    """Images with a label a pixel, from files or memory, augmented together, normalised batch by batch.

    Example: `load("camvid", root="data", size=180, crop=160, augment="standard").train`.

    `x` is float32 `(N, C, H, W)`, `y` int64 `(N, H, W)` with -100 where a pixel does not count. Whole images are served
    unless `crop` gives the height and width of patches, of which an epoch has `patches` from every image; with `inside`
    their centres lie on labelled pixels (in the field of view). Images of unequal size in one batch are filled up at the
    bottom and on the right, with zeros and -100. `augment` is a text that `paired_transforms.parse` reads; `standard`
    without `crop` cuts out patches of the image's own size. Where, and what is drawn, depends on seed, epoch and sample alone.

    `mean` and `std` are per channel, of images scaled to 0..1. `workers` processes read ahead; they change no batch.
    `names[i]`, `picture(i)` and `item(i)` are the i-th image: its file's stem, its pixels, and what a model would see.
    Raises DatasetError, with the file's name, for an image smaller than a patch unless the augmentation fills it up, and
    whatever is wrong with a file when its turn comes.
    """

    task = "segmentation"

    def __init__(
        self,
        pairs: Pairs,
        *,
        class_names: Sequence[str],
        palette: Sequence[Colour],
        mean: Tensor,
        std: Tensor,
        crop: tuple[int, int] | None = None,
        patches: int = 1,
        inside: bool = False,
        augment: str = "none",
        workers: int = 0,
    ) -> None:
        joint = paired_transforms.parse(augment)
        if crop is None and patches != 1:
            raise ConfigError(
                f"patches={patches} needs crop=..., the side of a patch; without it images are served whole."
            )
        if joint.turns and (crop is None or crop[0] != crop[1]):
            raise ConfigError(
                f"augment={augment!r} turns patches by 90 degrees, which needs square ones. Set crop to one number, or use "
                "flips(turns=False)."
            )
        super().__init__(
            samples=len(pairs) * patches,
            class_names=class_names,
            channels=pairs.channels,
            shape=crop or pairs.shape,
            augment=augment,
            kinds=0 if joint == Joint() else 1,
            views=1,
        )
        self.names = pairs.names
        self.palette, self.ranges = tuple(palette), pairs.ranges
        self.crop, self.patches, self.inside, self.workers = crop, patches, inside, workers
        self.mean, self.std = mean.to(torch.float32), std.to(torch.float32)
        self._pairs, self._joint = pairs, joint
        self._fill = [round(255 * value) for value in self.mean.clamp(0, 1).tolist()]
        self._places: dict[int, Tensor] = {}
        if crop is not None and pairs.in_memory:
            for index in range(len(pairs)):
                self._check_size(index, pairs[index])

    @property
    def n_images(self) -> int:
        """How many images there are; the length of the split is its samples, with `patches` from each."""
        return len(self.names)

    def file(self, index: int) -> Path:
        """Where image number `index` comes from."""
        return self._pairs.file(index)

    def counts(self) -> Tensor | None:
        """How many pixels have each of the 256 stored labels; None where images are not kept in memory."""
        return self._pairs.counts()

    def picture(self, index: int) -> Tensor:
        """Image number `index` as it is served but for normalisation: uint8 `(3, H, W)`, whole, not augmented."""
        image = self._pairs[index].image
        return image.expand(3, -1, -1).clone()

    def item(self, index: int) -> tuple[Tensor, Tensor]:
        """Image number `index` as a model sees it, `(C, H, W)`, and its labels `(H, W)`; whole, not augmented."""
        image, labels = self._pairs[index]
        x, y = self._finished(image[None], labels[None], None)
        return x[0], y[0]

    def sample(self, index: int, draws: Sequence[int]) -> Pixels:
        """One sample of an epoch, by the numbers that were drawn for it."""
        which, joint, crop = index // self.patches, self._joint, self.crop
        pixels = self._pairs[which]
        if crop is None and joint == Joint():
            return pixels
        size = (pixels.labels.shape[0], pixels.labels.shape[1]) if crop is None else crop
        if crop is not None:
            self._check_size(which, pixels)
        places = self._inside(which, pixels, (1, 1) if joint.pads else size) if self.inside and crop else None
        if joint.pads:
            patch = paired_transforms.warped(pixels, draws, joint, size, fill=self._fill, places=places)
        else:
            patch = paired_transforms.cut(pixels, draws, size, places=places)
        return paired_transforms.laid(patch, draws, joint)

    def _read(
        self, plan: list[Tensor], *, seed: int, epoch: int, device: torch.device | str | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if not plan:
            return
        epoch_of = _Epoch(self, self._draws(seed, epoch))
        batches = [rows.tolist() for rows in plan]
        for batch in self._loader(epoch_of, batches) if self.workers else map(epoch_of.__getitem__, batches):
            if isinstance(batch, DatasetError):
                raise batch
            x, y = self._finished(batch.images, batch.labels, device)
            for row, (height, width) in enumerate(batch.sizes):
                x[row, :, height:], x[row, :, :, width:] = 0, 0
            yield x, y

    def _loader(self, epoch: _Epoch, batches: list[list[int]]) -> DataLoader[Any]:
        return DataLoader(
            epoch,
            sampler=batches,  # a whole batch is one item
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            generator=torch.Generator(),  # otherwise the loader would draw from the global stream
        )

    def _draws(self, seed: int, epoch: int) -> Tensor:
        """The numbers of an epoch, one row a sample whoever reads it."""
        if self.crop is None and self._joint == Joint():
            return torch.zeros(1, 1, dtype=torch.int64).expand(len(self), paired_transforms.DRAWS)
        stream = generator("augment", seed, epoch)
        return torch.randint(0, RANGE, (len(self), paired_transforms.DRAWS), generator=stream)

    def _finished(self, images: Tensor, labels: Tensor, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
        """Bytes as a model sees them, on the device."""
        images, labels = sent(images, device), sent(labels, device)
        mean, std = (value.view(1, -1, 1, 1).to(images.device) for value in (self.mean, self.std))
        x = images.to(torch.float32).div_(255).sub_(mean).div_(std)
        return x, labels.to(torch.int64).masked_fill_(labels == VOID, IGNORE)

    def _check_size(self, index: int, pixels: Pixels) -> None:
        height, width = pixels.labels.shape
        if self.crop is None or self._joint.pads or (height >= self.crop[0] and width >= self.crop[1]):
            return
        raise DatasetError(
            f"the image {self._pairs.file(index)} is smaller than a patch: {height}x{width} as served, and crop is "
            f"{self.crop[0]}x{self.crop[1]}. Use a smaller crop or a larger size, or augment=standard, which fills images up."
        )

    def _inside(self, index: int, pixels: Pixels, size: tuple[int, int]) -> Tensor:
        """Where patches of an image may lie; computed once an image."""
        if index not in self._places:
            places = paired_transforms.centres(pixels.labels, size)
            if not len(places):
                raise DatasetError(
                    f"no patch of {size[0]}x{size[1]} within {self._pairs.file(index)} has its centre in the field of view. "
                    "Use a smaller crop, or correct the view's mask."
                )
            self._places[index] = places
        return self._places[index]


class _Batch(NamedTuple):
    """Images `(N, C, H, W)` and labels `(N, H, W)`, uint8; `sizes` of those that do not fill them, where any does not."""

    images: Tensor
    labels: Tensor
    sizes: list[tuple[int, int]]


class _Epoch(TorchDataset[Any]):
    """One epoch of a split, batch by batch: numbers of samples in, pixels out, or the first error in place of them."""

    def __init__(self, split: MapSplit, draws: Tensor) -> None:
        self.split = split
        self.draws = draws

    def __getitem__(self, rows: list[int]) -> _Batch | DatasetError:
        numbers = self.draws[rows].tolist()
        try:
            return _collated([self.split.sample(index, drawn) for index, drawn in zip(rows, numbers, strict=True)])
        except DatasetError as error:
            return error  # returned, since an exception in a worker arrives wrapped in that worker's traceback


def _collated(batch: list[Pixels]) -> _Batch:
    """Side by side; smaller ones are filled up with void at the bottom and on the right."""
    sizes = [(pixels.labels.shape[0], pixels.labels.shape[1]) for pixels in batch]
    if len(set(sizes)) == 1:
        return _Batch(torch.stack([p.image for p in batch]), torch.stack([p.labels for p in batch]), [])
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    images = torch.zeros(len(batch), len(batch[0].image), height, width, dtype=torch.uint8)
    labels = torch.full((len(batch), height, width), VOID, dtype=torch.uint8)
    for row, (pixels, (high, wide)) in enumerate(zip(batch, sizes, strict=True)):
        images[row, :, :high, :wide], labels[row, :high, :wide] = pixels
    return _Batch(images, labels, sizes)


def _as_it_is(batch: Any) -> Any:
    return batch
