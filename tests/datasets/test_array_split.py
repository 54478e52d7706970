"""Tests of array split."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deepsup import datasets
from deepsup.datasets import Split, transforms
from deepsup.datasets.splits import generator
from deepsup.datasets.transforms import RANGE, View, crop_and_mirror
from deepsup.errors import ConfigError
from tests.support.augmented_splits import (
    AUGMENTED,
    Watch,
    bytes_split,
    epoch_of,
    same,
)


class TestViews:
    def test_a_batch_is_view_one_then_view_two_of_the_same_samples(self, pairs: Split) -> None:
        for x, y in epoch_of(pairs):
            first, second = y.chunk(2)
            assert torch.equal(first, second)
            assert x.shape == (len(y), 3, pairs.size, pairs.size)
            one, two = x.chunk(2)
            assert all(not torch.equal(a, b) for a, b in zip(one, two, strict=True))

    def test_a_pure_function_of_seed_and_epoch_for_any_start_batch_size_and_world(self, pairs: Split) -> None:
        whole = epoch_of(pairs)
        assert same(whole, epoch_of(pairs))
        assert same(whole[1:], epoch_of(pairs, start=1))
        assert not same(whole, epoch_of(pairs, epoch=2))
        assert not same(whole, epoch_of(pairs, seed=4))
        full = [pair for pair in whole if len(pair[1]) == 8]  # the last batch is filled up for several processes
        ranks = [epoch_of(pairs, 2, world=2, rank=rank) for rank in (0, 1)]
        for (x, y), *parts in zip(full, *ranks, strict=False):
            views = zip(*(part[0].chunk(2) for part in parts), strict=True)
            assert torch.equal(torch.cat([torch.cat(view) for view in views]), x)
            assert torch.equal(torch.cat([part[1].chunk(2)[0] for part in parts]).repeat(2), y)

    @pytest.mark.parametrize("augment", AUGMENTED[:3])
    def test_the_first_view_is_the_one_that_a_single_view_shows(self, augment: str) -> None:
        alone, twice = (epoch_of(bytes_split(augment=augment, views=views)) for views in (1, 2))
        assert same(alone, [(x.chunk(2)[0], y.chunk(2)[0]) for x, y in twice])

    def test_a_contrastive_pair_is_two_different_recipes(self) -> None:
        split = bytes_split(30, augment="contrastive(length=6)", views=2)
        x, _ = next(split.batches(30, seed=5, epoch=2, shuffle=False))
        one, two = (
            torch.randint(0, RANGE, (30, width), generator=generator("augment", 5, 2, view))
            for view, width in enumerate((5, 11))
        )
        holes = transforms.hole(one, side=20, length=6)
        first = (crop_and_mirror(split.images, one, View(edge="grey")) / 255).masked_fill(holes, 0)
        second = transforms.coloured(crop_and_mirror(split.images, two, View()) / 255, two)
        assert torch.equal(x, (torch.cat([first, second]) - 0.4) / 0.2)

    def test_validation_has_one_view(self) -> None:
        data = datasets.load("digits", augment="standard(mirror=False)", views=2)
        assert (data.train.views, data.validation.views) == (2, 1)
        assert repr(data.train).endswith("augment='standard(mirror=False)', views=2)")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"views": 2}, "views=2 with augment='none' would show every image twice"),
            ({"augment": "contrastive(length=4)"}, "describes a pair of different views. Set views=2"),
            ({"augment": "standard", "views": 3}, "views=3 must be 1 or 2"),
        ],
    )
    def test_views_that_make_no_sense(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            bytes_split(**options)


class TestNothingWaits:
    def test_the_watch_sees_what_it_should(self) -> None:
        x = torch.rand(3)
        for waits in (lambda: float(x[0]), lambda: x[x > 0], lambda: bool(x.any()), lambda: x.nonzero()):
            with Watch(), pytest.raises(AssertionError, match="waits for the device"):
                waits()
        with Watch() as watch:
            moved = x.to("meta").to(torch.float64)
        assert watch.moved == [torch.Size([3])]
        with pytest.raises((RuntimeError, NotImplementedError)):
            moved.tolist()

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    @pytest.mark.parametrize("augment", ["none", *AUGMENTED])
    def test_no_batch_after_the_first_waits_or_moves_anything(self, augment: str, device: str) -> None:
        split = bytes_split(augment=augment, views=1 if augment == "none" else 2, size=24)
        batches = split.batches(2, seed=0, epoch=0, shuffle=True, device=device)
        assert next(batches)[0].device.type == device
        with Watch() as watch:
            assert len(list(batches)) == 5
        assert watch.moved == []

    def test_images_are_moved_once_and_an_epoch_moves_one_table(self) -> None:
        split = bytes_split(augment="cutout(length=6)", views=2)
        with Watch() as watch:
            for epoch in range(3):
                list(split.batches(4, seed=0, epoch=epoch, shuffle=True, device="meta"))
        table = torch.Size([11, 1 + 5 + 5])
        pictures = split.images.shape
        assert watch.moved.count(pictures) == 1
        assert watch.moved.count(table) == 3
        assert len(watch.moved) == 3 + 4  # images, labels, mean, std
