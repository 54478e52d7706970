"""Tests of normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from deepsup.datasets import ArraySplit
from deepsup.datasets.normalisation import channel_statistics
from deepsup.errors import DatasetError
from tests.support.numbered_splits import numbered


class TestArrays:
    def test_augmentation_draws_every_offset_and_both_directions(self) -> None:
        split = ArraySplit(
            torch.arange(1.0, 65.0).view(1, 1, 8, 8).repeat(600, 1, 1, 1),
            torch.zeros(600),
            class_names=["only"],
            augment="standard",
        )
        x, _ = next(split.batches(600, seed=0, epoch=0, shuffle=False))
        assert len({tuple(image.flatten().tolist()) for image in x}) > 0.9 * 9 * 9 * 2

    def test_bytes_stay_bytes_and_are_normalised_when_served(self) -> None:
        images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
        mean, std = channel_statistics(images)
        split = ArraySplit(images, torch.zeros(6), class_names=["only"], mean=mean, std=std)
        assert split.images.dtype == torch.uint8
        x, _ = next(split.batches(6, seed=0, epoch=0, shuffle=False))
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3))

    def test_statistics_of_bytes_and_of_floats_agree(self) -> None:
        images = torch.randint(0, 200, (5, 2, 8, 8), dtype=torch.uint8)
        images[:, 1] = 7  # a constant channel
        for counted, computed in zip(channel_statistics(images), channel_statistics(images / 255), strict=True):
            torch.testing.assert_close(counted, computed)
        assert channel_statistics(images)[1][1] == 1

    @pytest.mark.parametrize("size", [8, 24])
    def test_resized_batch_by_batch(self, size: int) -> None:
        images = torch.rand(2, 1, 12, 12)
        split = ArraySplit(images, torch.zeros(2), class_names=["only"], size=size)
        x, _ = next(split.batches(2, seed=0, epoch=0, shuffle=False))
        expected = functional.interpolate(images, (size, size), mode="bilinear", antialias=size < 12)
        torch.testing.assert_close(x, expected)

    def test_device(self) -> None:
        x, y = next(numbered(4, augment="standard").batches(2, seed=0, epoch=0, shuffle=True, device="meta"))
        assert (x.device.type, y.device.type) == ("meta", "meta")

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            (torch.zeros(2, 1, 8, 9), torch.zeros(2), r"must be square.*\(2, 1, 8, 9\)"),
            (torch.zeros(2, 1, 8, 8), torch.zeros(3), r"2 images came with labels of shape \(3,\)"),
            (torch.zeros(0, 1, 8, 8), torch.zeros(0), "this one is empty"),
            (torch.zeros(2, 1, 8, 8), torch.tensor([0, 2]), "labels go from 0 to 2, but 2 classes have names"),
            (torch.zeros(2, 1, 8, 8, dtype=torch.float64), torch.zeros(2), "uint8 or float32, not torch.float64"),
        ],
    )
    def test_what_does_not_fit(self, images: Tensor, labels: Tensor, message: str) -> None:
        with pytest.raises(DatasetError, match=message):
            ArraySplit(images, labels, class_names=["a", "b"])
