"""By what images are shifted and scaled, channel by channel: ImageNet's statistics, or those of one's own images."""

from __future__ import annotations

import torch
from torch import Tensor

# What ImageNet's trained networks expect; any fixed shift and scale does for the others.
IMAGENET_MEAN, IMAGENET_STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))


def channel_statistics(
    images: Tensor,  # (N, C, H, W), uint8 or float
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels; uint8 images count as scaled to 0..1.

    Example: `channel_statistics(torch.zeros(4, 3, 8, 8))` gives two tensors of shape (3,). A constant channel gets
    a standard deviation of 1, so that dividing by it is harmless.
    """
    if images.dtype == torch.uint8:  # 256 counts a channel are exact and need no float copy of the whole dataset
        return counted_statistics(byte_counts(images.transpose(0, 1)))
    deviation, mean = torch.std_mean(images.to(torch.float64), dim=(0, 2, 3), correction=0)
    return _harmless(mean, deviation)


def byte_counts(
    channels: Tensor,  # (C, ...), uint8
) -> Tensor:
    """How often each byte occurs in each channel, `(C, 256)`."""
    return torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in channels])


def counted_statistics(
    counts: Tensor,  # (C, 256)
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of bytes scaled to 0..1, by how often each occurs in each channel."""
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts / counts.sum(1, keepdim=True).to(torch.float64)
    mean = (shares * values).sum(1)
    return _harmless(mean, (shares * (values - mean[:, None]) ** 2).sum(1).sqrt())


def _harmless(mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    return mean.to(torch.float32), torch.where(deviation > 0, deviation, 1.0).to(torch.float32)
