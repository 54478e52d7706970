"""Images held in memory as one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from deepsup.datasets.splits import Share, Split, generator
from deepsup.errors import DatasetError

_PADDING = 4


@final
class ArraySplit(Split):
    """Square images `(N, C, H, H)` in memory, normalised batch by batch.

    Example: `ArraySplit(torch.rand(8, 1, 16, 16), torch.arange(8) % 2, class_names=["no", "yes"])`.

    `images` are uint8 from 0 to 255 (kept so, which is a quarter of the memory) or float32. `mean` and `std` are per
    channel, in units of images scaled to 0..1 (uint8) or as they are (float32); without them nothing is shifted or
    scaled further. `size` resizes each batch bilinearly, after augmentation. `augment="standard"` pads 4 black
    pixels, crops at random and mirrors half of the images. Raises DatasetError when shapes do not fit.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        class_names: Sequence[str],
        size: int | None = None,
        augment: str = "none",
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        if images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise DatasetError(f"images must be square, (N, C, H, H); their shape is {tuple(images.shape)}.")
        if labels.shape != images.shape[:1]:
            raise DatasetError(f"{len(images)} images came with labels of shape {tuple(labels.shape)}.")
        if images.dtype not in {torch.uint8, torch.float32}:
            raise DatasetError(f"images must be uint8 or float32, not {images.dtype}.")
        channels, native = images.shape[1], images.shape[2]
        super().__init__(
            labels=labels, class_names=class_names, channels=channels, size=size or native, augment=augment
        )
        self.images = images
        self.mean = torch.zeros(channels) if mean is None else mean.to(torch.float32)
        self.std = torch.ones(channels) if std is None else std.to(torch.float32)

    def _read(
        self, plan: Iterator[Share], *, seed: int, epoch: int, device: torch.device | str | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        mean, std = (value.view(1, -1, 1, 1).to(device) for value in (self.mean, self.std))
        for share in plan:
            images = self.images[share.rows].to(device)
            if self.augment == "standard":
                # Drawn for the global batch, so that the same images are cropped alike however many ranks share it.
                draws = torch.randint(
                    0, 2**31, (share.total, 3), generator=generator("augment", seed, epoch, share.batch)
                )
                images = crop_and_flip(images, draws[share.first : share.first + len(share.rows)])
            yield self._normalised(images, mean, std), self.labels[share.rows].to(device)

    def _normalised(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        floats = images.to(torch.float32)
        if images.dtype == torch.uint8:
            floats = floats / 255
        floats = (floats - mean) / std
        if self.size != images.shape[-1]:
            shrinks = self.size < images.shape[-1]
            floats = functional.interpolate(
                floats, (self.size, self.size), mode="bilinear", align_corners=False, antialias=shrinks
            )
        return floats


def crop_and_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Pad by 4 zeros, cut out a window of the original size at random, mirror half of the images.

    Example: `crop_and_flip(torch.rand(2, 3, 32, 32), torch.randint(0, 2**31, (2, 3)))`.

    `draws` are whole numbers of at least 0, `(N, 3)`: row offset, column offset and mirroring are their remainders.
    The augmentation of He et al. 2016, section 4.2, in one gather for the whole batch.
    """
    side = images.shape[-1]
    draws = draws.to(images.device)
    steps = torch.arange(side, device=images.device)
    rows = steps + (draws[:, :1] % (2 * _PADDING + 1))
    columns = torch.where(draws[:, 2:] % 2 == 1, steps.flip(0), steps) + (draws[:, 1:2] % (2 * _PADDING + 1))
    padded = functional.pad(images, (_PADDING,) * 4)
    sample = torch.arange(len(images), device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1)
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels; uint8 images count as scaled to 0..1.

    Example: `channel_statistics(torch.zeros(4, 3, 8, 8))` gives two tensors of shape (3,). A constant channel gets
    a standard deviation of 1, so that dividing by it is harmless.
    """
    if images.dtype == torch.uint8:  # 256 counts a channel are exact and need no float copy of the whole dataset
        values = torch.arange(256, dtype=torch.float64) / 255
        counts = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])])
        weights = counts / counts.sum(1, keepdim=True).to(torch.float64)
        mean = (weights * values).sum(1)
        deviation = (weights * (values - mean[:, None]) ** 2).sum(1).sqrt()
    else:
        deviation, mean = torch.std_mean(images.to(torch.float64), dim=(0, 2, 3), correction=0)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    return mean.to(torch.float32), deviation.to(torch.float32)
