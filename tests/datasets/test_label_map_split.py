"""Tests of label map split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepsup import datasets
from deepsup.datasets import MapSplit
from deepsup.errors import DatasetError
from tests.support.patches import EPOCH, equal, forks, split_of
from tests.support.published_pixels import maps
from tests.support.tiny_layouts import (
    SHAPE,
    blocks,
    picture,
    write_camvid,
    write_pairs,
)


class TestWholeImages:
    def test_batches_are_normalised_and_pictures_are_not(self, tmp_path: Path) -> None:
        train, _ = maps("pairs", write_pairs(tmp_path))
        x, y = next(train.batches(3, seed=0, epoch=0, shuffle=False))
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((3, 3, *SHAPE), torch.float32, (3, *SHAPE), torch.int64)
        stored = torch.from_numpy(picture(blocks(1))).permute(2, 0, 1)
        assert torch.equal(train.picture(1), stored)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        torch.testing.assert_close(x[1], (stored / 255 - mean[:, None, None]) / std[:, None, None])
        assert torch.equal(train.item(1)[0], x[1])
        assert torch.equal(train.item(1)[1], y[1])

    @pytest.mark.parametrize(
        ("size", "shape"), [(12, (12, 16)), (48, (48, 64)), ((10, 30), (10, 30)), ([24, 32], SHAPE)]
    )
    def test_resized(self, tmp_path: Path, size: Any, shape: tuple[int, int]) -> None:
        _, validation = maps("pairs", write_pairs(tmp_path), size=size, crop=8)
        assert validation.shape == shape
        mask = torch.from_numpy(blocks(10))
        rows, columns = ((torch.arange(n) + 0.5) * m / n for n, m in zip(shape, SHAPE, strict=True))
        assert torch.equal(
            validation.item(0)[1], mask[rows.long()][:, columns.long()].long()
        )  # the pixel at the centre
        with Image.open(tmp_path / "val" / "images" / "0.png") as image:
            expected = np.array(image.resize(shape[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert int((validation.picture(0).int() - torch.from_numpy(expected).int()).abs().max()) <= 1

    def test_images_of_unequal_size_share_a_batch(self, tmp_path: Path) -> None:
        shapes = [(24, 32), (20, 40), (30, 8)]
        root = write_pairs(tmp_path, mask=lambda n: blocks(n, shape=shapes[n % 10]), validation=3)
        _, validation = maps("pairs", root)
        assert validation.shape == (30, 40)
        x, y = next(validation.batches(3, seed=0, epoch=0, shuffle=False))
        assert x.shape == (3, 3, 30, 40)
        for row, (height, width) in enumerate(shapes):
            own, labels = validation.item(row)
            assert torch.equal(x[row, :, :height, :width], own)
            assert torch.equal(y[row, :height, :width], labels)
            assert float(x[row, :, height:].abs().sum() + x[row, :, :, width:].abs().sum()) == 0
            assert set(y[row, height:].unique().tolist()) | set(y[row, :, width:].unique().tolist()) <= {-100}
        alone = next(validation.batches(1, seed=0, epoch=0, shuffle=False, start=2))
        assert alone[0].shape == (1, 3, 30, 8)

    def test_limit_takes_training_images_alone(self, tmp_path: Path) -> None:
        root = write_camvid(tmp_path, train=6)
        small, large = (maps("camvid", root, limit=limit) for limit in (2, 5))
        assert (small[0].n_images, small[1].n_images) == (2, 2)
        assert small[0].names == large[0].names[:2]

    def test_only_training_is_cut_and_augmented(self, tmp_path: Path) -> None:
        data = datasets.load("camvid", root=write_camvid(tmp_path), crop=8, patches=5, augment="flips")
        assert str(data) == "camvid: 4 training (20 patches an epoch) and 2 validation images, 3x8x8, 11 classes"
        assert (data.validation.augment, data.validation.shape, len(data.validation)) == ("none", SHAPE, 2)
        assert repr(data.train) == "MapSplit(20 images 3x8x8, 11 classes, augment='flips')"


class TestContract:
    def test_the_same_epoch_twice(self, split: MapSplit) -> None:
        assert equal(split.batches(5, **EPOCH), split.batches(5, **EPOCH))

    @pytest.mark.parametrize("other", [{"seed": 4}, {"epoch": 3}])
    def test_another_seed_or_epoch_differs(self, split: MapSplit, other: dict[str, int]) -> None:
        in_order = EPOCH | {"shuffle": False}
        assert not equal(split.batches(5, **in_order), split.batches(5, **in_order | other))

    def test_a_start_in_the_middle_continues_the_same_epoch(self, split: MapSplit) -> None:
        assert equal(iter(list(split.batches(5, **EPOCH))[1:]), split.batches(5, **EPOCH, start=1))

    def test_processes_share_the_batches_of_one(self, split: MapSplit) -> None:
        ranks = [list(split.batches(2, **EPOCH, rank=rank, world=3)) for rank in range(3)]
        for step, (x, y) in enumerate(split.batches(6, **EPOCH)):
            assert torch.equal(torch.cat([ranks[rank][step][0] for rank in range(3)]), x)
            assert torch.equal(torch.cat([ranks[rank][step][1] for rank in range(3)]), y)

    def test_a_patch_depends_on_the_sample_not_on_the_batch(self, split: MapSplit) -> None:
        in_order = EPOCH | {"shuffle": False}
        single = list(split.batches(1, **in_order))
        together = next(split.batches(12, **in_order))
        assert torch.equal(torch.cat([x for x, _ in single]), together[0])
        assert torch.equal(torch.cat([y for _, y in single]), together[1])

    def test_an_epoch_has_so_many_patches_of_every_image(self, split: MapSplit) -> None:
        assert (len(split), split.n_images, split.n_batches(5), split.size) == (12, 3, 3, 9)
        assert [len(x) for x, _ in split.batches(5, **EPOCH)] == [5, 5, 2]
        assert [len(x) for x, _ in split.batches(5, **EPOCH, drop_last=True)] == [5, 5]

    def test_the_global_random_state_is_neither_read_nor_written(self, split: MapSplit) -> None:
        before = torch.get_rng_state()
        first = list(split.batches(5, **EPOCH))
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(9)
        assert equal(iter(first), split.batches(5, **EPOCH))

    @forks
    @pytest.mark.parametrize("memory", [2**30, 0])
    def test_neither_workers_nor_memory_change_a_batch(self, root: Path, memory: int) -> None:
        options: dict[str, Any] = {"crop": (9, 9), "patches": 4, "augment": "standard"}
        alone = split_of(root, **options)
        helped = split_of(root, memory=memory, workers=2, **options)
        before = torch.get_rng_state()
        assert equal(alone.batches(5, **EPOCH, start=1), helped.batches(5, **EPOCH, start=1))
        assert torch.equal(before, torch.get_rng_state())

    @forks
    @pytest.mark.parametrize("workers", [0, 1])
    def test_what_is_not_kept_is_checked_when_its_turn_comes(self, root: Path, workers: int) -> None:
        split = split_of(root, memory=0, workers=workers)
        (root / "train/masks/2.png").write_bytes(b"")
        batches = split.batches(1, seed=0, epoch=0, shuffle=False)
        assert len(next(batches)[0]) == len(next(batches)[0]) == 1
        with pytest.raises(DatasetError, match=r"^cannot read the mask .*train/masks/2.png: ") as caught:
            next(batches)
        assert "Traceback" not in str(caught.value)
        assert len(list(split.batches(1, seed=0, epoch=0, shuffle=False, start=3))) == 0

    @pytest.mark.parametrize("memory", [2**30, 0])
    def test_an_image_smaller_than_a_patch_is_named(self, root: Path, memory: int) -> None:
        with pytest.raises(
            DatasetError,
            match=r"images/0.png is smaller than a patch: 24x32 as served, and crop is 25x9.*augment=standard",
        ):
            list(split_of(root, memory=memory, crop=(25, 9)).batches(1, seed=0, epoch=0, shuffle=False))
        assert split_of(root, memory=memory, crop=(25, 9), augment="standard").shape == (25, 9)

    def test_on_a_device(self, split: MapSplit) -> None:
        x, y = next(split.batches(5, **EPOCH, device="meta"))
        assert (x.device.type, y.device.type) == ("meta", "meta")
