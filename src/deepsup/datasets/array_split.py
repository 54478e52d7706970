"""Images held in memory as one tensor, on the device where their batches are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional

from deepsup.datasets import transforms
from deepsup.datasets.splits import Split, checked_labels, generator, sent
from deepsup.datasets.transforms import View, crop_and_mirror
from deepsup.errors import DatasetError


class _Stored(NamedTuple):
    """What batches are made of, on one device."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor


@final
class ArraySplit(Split):
    """Square images `(N, C, H, H)` in memory, augmented and normalised batch by batch.

    Example: `ArraySplit(torch.rand(8, 1, 16, 16), torch.arange(8) % 2, class_names=["no", "yes"])`.

    `images` are uint8 from 0 to 255 (kept so, which is a quarter of the memory) or float32. `mean` and `std` are per
    channel, in units of images scaled to 0..1 (uint8) or as they are (float32); without them nothing is shifted or
    scaled further. `augment` is a text that `transforms.parse` reads, such as `standard` (4 black pixels all round,
    a random crop, half of the images mirrored) or `cutout(length=8)`; `contrastive` takes floats to be from 0 to 1.
    `size` resizes each batch bilinearly, after augmentation.

    Batches for a device are made on that device. The images are moved there once and stay there; an epoch moves its
    order and its draws in one go, and no batch makes the host wait. Raises DatasetError when shapes do not fit.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        class_names: Sequence[str],
        size: int | None = None,
        augment: str = "none",
        views: int = 1,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        if images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise DatasetError(f"images must be square, (N, C, H, H); their shape is {tuple(images.shape)}.")
        if labels.shape != images.shape[:1]:
            raise DatasetError(f"{len(images)} images came with labels of shape {tuple(labels.shape)}.")
        if images.dtype not in {torch.uint8, torch.float32}:
            raise DatasetError(f"images must be uint8 or float32, not {images.dtype}.")
        channels, side = images.shape[1], images.shape[2]
        recipe = transforms.fitting(transforms.parse(augment), side=side, augment=augment)
        super().__init__(
            samples=len(labels),
            class_names=class_names,
            channels=channels,
            shape=(size or side,) * 2,
            augment=augment,
            kinds=len(recipe),
            views=views,
        )
        self.labels = checked_labels(labels, classes=self.classes)
        self._recipes = tuple(recipe[view % len(recipe)] for view in range(views)) if recipe else ()
        self.images = images
        self.mean = torch.zeros(channels) if mean is None else mean.to(torch.float32)
        self.std = torch.ones(channels) if std is None else std.to(torch.float32)
        self._copies: dict[torch.device, _Stored] = {}

    def _read(
        self, plan: list[Tensor], *, seed: int, epoch: int, device: torch.device | str | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if not plan:
            return
        here = self._on(self.images.device if device is None else device)
        table = sent(self._table(torch.cat(plan), seed=seed, epoch=epoch), here.images.device)
        widths = [1, *(view.draws for view in self._recipes)]
        for part in torch.split(table, [len(rows) for rows in plan]):
            row, *draws = torch.split(part, widths, 1)
            images, labels = here.images[row[:, 0]], here.labels[row[:, 0]]
            if not self._recipes:
                yield self._finished(images, here), labels
                continue
            shown = [
                self._seen(images, numbers, view, here) for numbers, view in zip(draws, self._recipes, strict=True)
            ]
            yield (shown[0], labels) if self.views == 1 else (torch.cat(shown), labels.repeat(self.views))

    def _on(self, device: torch.device | str) -> _Stored:
        """Everything on that device, moved there the first time it is asked for."""
        device = torch.empty(0, device=device).device  # "cuda" as the one that it means
        if device not in self._copies:
            mean, std = (value.view(1, -1, 1, 1).to(device) for value in (self.mean, self.std))
            self._copies[device] = _Stored(self.images.to(device), self.labels.to(device), mean, std)
        return self._copies[device]

    def _table(self, rows: Tensor, *, seed: int, epoch: int) -> Tensor:
        """An epoch on one page: for each image its row, then the numbers that each of its views is augmented by.

        Drawn for all samples whoever reads them, so that neither batch size nor processes change how one is cropped.
        """
        columns = [rows[:, None]]
        for number, view in enumerate(self._recipes):
            stream = generator("augment", seed, epoch, number)
            columns.append(torch.randint(0, transforms.RANGE, (len(self), view.draws), generator=stream)[rows])
        return torch.cat(columns, 1)

    def _seen(self, images: Tensor, draws: Tensor, view: View, here: _Stored) -> Tensor:
        """One augmented view of a batch, normalised."""
        side = images.shape[-1]
        images = crop_and_mirror(images, draws, view)
        if view.operations:
            images = transforms.operated(images, draws, view)
        if view.colours:
            images = transforms.coloured(scaled(images), draws)
        if not view.hole:
            return self._finished(images, here)
        hole = transforms.hole(draws, side=side, length=view.hole)
        if view.hole_fill == "black":
            return self._finished(images.masked_fill(hole, 0), here)
        return self._resized(normalised(images, here.mean, here.std).masked_fill_(hole, 0))

    def _finished(self, images: Tensor, here: _Stored) -> Tensor:
        return self._resized(normalised(images, here.mean, here.std))

    def _resized(self, pixels: Tensor) -> Tensor:
        if self.size == pixels.shape[-1]:
            return pixels
        sides, shrinks = (self.size, self.size), self.size < pixels.shape[-1]
        return functional.interpolate(pixels, sides, mode="bilinear", align_corners=False, antialias=shrinks)


def scaled(images: Tensor) -> Tensor:
    """Bytes as floats from 0 to 1; floats as they are."""
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """A batch as floats, shifted and scaled channel by channel; `mean` and `std` are `(1, C, 1, 1)`."""
    return (scaled(images) - mean).div_(std)
