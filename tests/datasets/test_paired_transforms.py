"""Patches: image and labels move together, labels stay exact, and all is a function of seed, epoch and sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from deepsup import datasets
from deepsup.datasets import MapSplit, paired_transforms
from deepsup.datasets.image_files import VOID, MaskReader
from deepsup.datasets.paired_transforms import Joint, Pixels
from deepsup.datasets.pairs import Pair, PairReader, Pairs
from deepsup.datasets.transforms import RANGE
from deepsup.errors import DatasetError
from tests.support.tiny_layouts import SHAPE, blocks, picture, write_drive, write_pairs

torch.set_num_threads(1)

forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # newer Pythons dislike workers that fork
EPOCH: dict[str, Any] = {"seed": 3, "epoch": 2, "shuffle": True}
FACTOR = 20


def equal(left: Iterator[tuple[Tensor, Tensor]], right: Iterator[tuple[Tensor, Tensor]]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return bool(pairs) and all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def training(root: Path, **options: Any) -> MapSplit:
    split = datasets.load("pairs", root=root, **options).train
    assert isinstance(split, MapSplit)
    return split


def split_of(root: Path, *, memory: int = 2**30, **options: Any) -> MapSplit:
    """Written pairs as a split, kept in memory or read again for every sample."""
    pairs = [Pair(str(n), root / f"train/images/{n}.png", root / f"train/masks/{n}.png") for n in range(3)]
    reader = PairReader(MaskReader({0: 0, 1: 1, 2: 2, 255: VOID}, classes=3))
    half = torch.full((3,), 0.5)
    return MapSplit(
        Pairs(pairs, reader, memory=memory), class_names="abc", palette=[(0, 0, 0)] * 3, mean=half, std=half, **options
    )


def red(x: Tensor, split: MapSplit) -> Tensor:
    """The red channel as bytes again."""
    return ((x[:, 0] * split.std[0] + split.mean[0]) * 255).round()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pairs(tmp_path)


@pytest.fixture(params=["none", "flips", "standard"])
def split(request: pytest.FixtureRequest, root: Path) -> MapSplit:
    return training(root, crop=9, patches=4, augment=request.param)


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


class TestTogether:
    @pytest.mark.parametrize(
        "augment", ["none", "flips", "flips(turns=False)", "standard", "standard(blur=0,scale=(2,2))"]
    )
    @pytest.mark.parametrize("crop", [9, 20])
    def test_labels_are_labels_and_lie_where_the_image_has_them(self, root: Path, augment: str, crop: int) -> None:
        split = training(root, crop=crop, patches=60, augment=augment)
        counted = 0
        for x, y in split.batches(60, **EPOCH):
            assert set(y.unique().tolist()) <= {-100, 0, 1, 2}
            seen = red(x, split)
            if not augment.startswith("standard"):
                assert torch.equal(seen, y * float(FACTOR))
                counted += 1
                continue
            # Where all pixels around have one label, neither resizing nor rotation nor blur mixes anything.
            around = [functional.pad(y.float(), (3, 3, 3, 3), value=-1).unfold(1, 7, 1).unfold(2, 7, 1)]
            flat = around[0].flatten(3)
            same = (flat == flat[..., :1]).all(-1) & (y >= 0)
            counted += int(same.sum())
            assert float((seen - y * FACTOR)[same].abs().max() if same.any() else 0) <= 1
        assert counted > 0

    def test_void_is_grey_in_the_image(self, root: Path) -> None:
        split = training(root, crop=40, augment="standard(blur=0,scale=(0.5, 0.5),rotate=0)", patches=5)
        x, y = next(split.batches(15, **EPOCH))
        assert torch.equal((y != -100).sum((1, 2)), torch.full((15,), 12 * 16))
        assert bool((y[:, 14:26, 12:28] >= 0).all())  # in the middle
        assert float(x.permute(0, 2, 3, 1)[y == -100].abs().max()) < 0.02  # the mean colour, but for rounding

    def test_without_a_crop_patches_have_the_size_of_the_image(self, root: Path) -> None:
        x, y = next(training(root, augment="standard").batches(3, **EPOCH))
        assert (x.shape[2:], y.shape[1:]) == (SHAPE, SHAPE)

    def test_blur_is_for_the_image_alone(self, root: Path) -> None:
        sharp, blurred = (
            training(root, crop=16, patches=20, augment=f"standard(rotate=0,blur={blur})") for blur in (0, 1)
        )
        for (x, y), (soft, labels) in zip(sharp.batches(60, **EPOCH), blurred.batches(60, **EPOCH), strict=True):
            assert torch.equal(y, labels)
            assert float((x - soft).abs().flatten(1).amax(1).min()) > 0.1
            assert float((x - soft).mean().abs()) < 0.02

    @pytest.mark.parametrize(("text", "share"), [("blur=0.25", 0.25), ("blur=0", 0)])
    def test_a_share_is_blurred(self, root: Path, text: str, share: float) -> None:
        options: dict[str, Any] = {"crop": 16, "patches": 100}
        still = "standard(rotate=0,scale=(1,1),mirror=False"
        sharp = training(root, augment=f"{still},blur=0)", **options)
        split = training(root, augment=f"{still},{text})", **options)
        changed = [
            (x != soft).flatten(1).any(1)
            for (x, _), (soft, _) in zip(sharp.batches(100, **EPOCH), split.batches(100, **EPOCH), strict=True)
        ]
        assert float(torch.cat(changed).float().mean()) == pytest.approx(share, abs=0.1 * bool(share))


def pixels_of(seed: int = 0, shape: tuple[int, int] = SHAPE) -> Pixels:
    mask = blocks(seed, shape=shape, side=1, labels=range(3))
    return Pixels(torch.from_numpy(picture(mask)).permute(2, 0, 1), torch.from_numpy(mask))


def drawn(count: int, seed: int = 0) -> list[list[int]]:
    return torch.randint(
        0, RANGE, (count, paired_transforms.DRAWS), generator=torch.Generator().manual_seed(seed)
    ).tolist()


class TestPatches:
    def test_every_place_is_as_likely(self) -> None:
        numbered = Pixels(torch.zeros(1, 5, 6, dtype=torch.uint8), torch.arange(30, dtype=torch.uint8).view(5, 6))
        corners = [int(paired_transforms.cut(numbered, row, (3, 4)).labels[0, 0]) for row in drawn(1800)]
        counts = np.bincount(corners, minlength=30).reshape(5, 6)
        assert counts[:3, :3].sum() == 1800
        assert counts[:3, :3].min() > 140  # of 200 each; 5 deviations

    def test_centres_by_a_slow_loop(self) -> None:
        labels = torch.where(torch.rand(9, 11) < 0.5, VOID, 1).to(torch.uint8)
        for size in ((3, 3), (4, 2), (1, 1), (9, 11)):
            expected = [
                top * (11 - size[1] + 1) + left
                for top in range(9 - size[0] + 1)
                for left in range(11 - size[1] + 1)
                if labels[top + size[0] // 2, left + size[1] // 2] != VOID
            ]
            assert paired_transforms.centres(labels, size).tolist() == expected

    def test_all_eight_ways_to_lay_a_square(self) -> None:
        mask = torch.arange(9, dtype=torch.uint8).view(3, 3)
        square = Pixels(mask[None] * 20, mask)
        seen = {
            tuple(paired_transforms.laid(square, row, paired_transforms.flips()).labels.flatten().tolist())
            for row in drawn(200)
        }
        assert len(seen) == 8
        without = {
            tuple(paired_transforms.laid(square, row, paired_transforms.flips(turns=False)).labels.flatten().tolist())
            for row in drawn(200)
        }
        assert without == {tuple(mask.flatten().tolist()), tuple(mask.flip(1).flatten().tolist())}

    def test_at_its_own_scale_a_patch_is_a_part_of_the_image(self) -> None:
        source = pixels_of()
        still = paired_transforms.standard(scale=(1, 1), rotate=0, blur=0)
        windows = source.labels.unfold(0, 8, 1).unfold(1, 10, 1).flatten(0, 1)
        seen = set()
        for row in drawn(400):
            image, labels = paired_transforms.warped(source, row, still, (8, 10), fill=[0, 0, 0])
            places = (windows == labels).flatten(1).all(1).nonzero()
            assert len(places) == 1
            top, left = divmod(int(places), 32 - 10 + 1)
            assert torch.equal(image, source.image[:, top : top + 8, left : left + 10])
            seen.add((top, left))
        assert {top for top, _ in seen} == set(range(24 - 8 + 1))
        assert {left for _, left in seen} == set(range(32 - 10 + 1))

    def test_twice_as_large_a_patch_shows_half_as_much(self) -> None:
        source = pixels_of()
        twice = paired_transforms.standard(scale=(2, 2), rotate=0, blur=0)
        windows = source.labels.unfold(0, 4, 1).unfold(1, 5, 1).flatten(0, 1)
        for row in drawn(50):
            _, labels = paired_transforms.warped(source, row, twice, (8, 10), fill=[0, 0, 0])
            assert torch.equal(labels, labels[::2, ::2].repeat_interleave(2, 0).repeat_interleave(2, 1))
            assert bool((windows == labels[::2, ::2]).flatten(1).all(1).any())

    def test_half_are_rotated_around_their_middle_by_up_to_the_angle(self) -> None:
        """A horizontal edge through the middle: where it meets the sides tells the angle."""
        labels = torch.zeros(201, 201, dtype=torch.uint8)
        labels[100:] = 1
        source = Pixels(labels[None].repeat(3, 1, 1), labels)
        turning = paired_transforms.standard(scale=(1, 1), rotate=30, blur=0, mirror=False)
        middle = torch.tensor([100 * 201 + 100])
        angles = []
        for row in drawn(300):
            _, found = paired_transforms.warped(source, row, turning, (61, 61), fill=[0, 0, 0], places=middle)
            assert VOID not in found
            left, right = (int((found[:, column] == 0).sum()) for column in (0, 60))
            angles.append(float(np.degrees(np.arctan((left - right) / 60))))
        turned = [angle for angle in angles if abs(angle) > 1.5]
        assert 0.35 < len(turned) / 300 < 0.6
        assert 25 < max(turned) < 31
        assert -31 < min(turned) < -25

    def test_any_image_scale_and_angle_gives_a_patch(self) -> None:
        random = np.random.default_rng(0)
        for row in drawn(300):
            shape, size = (tuple(int(n) for n in random.integers(1, 30, 2)) for _ in range(2))
            low = float(random.uniform(0.05, 2))
            joint = Joint(scale=(low, low * 3), rotate=float(random.choice([0.0, 180.0])), blur=0.5)
            source = pixels_of(1, (shape[0], shape[1]))
            places = paired_transforms.centres(source.labels, (1, 1)) if random.random() < 0.5 else None
            image, labels = paired_transforms.warped(
                source, row, joint, (size[0], size[1]), fill=[1, 2, 3], places=places
            )
            assert (image.shape, labels.shape) == ((3, *size), size)
            assert (image.dtype, labels.dtype) == (torch.uint8, torch.uint8)
            assert set(labels.unique().tolist()) <= {*source.labels.unique().tolist(), VOID}

    def test_texts(self) -> None:
        assert paired_transforms.parse("none") == Joint()
        assert paired_transforms.parse("flips") == Joint(mirror=True, turns=True)
        assert paired_transforms.parse("standard") == Joint(scale=(0.5, 2.0), rotate=10.0, blur=0.5, mirror=True)
        assert paired_transforms.parse("standard(scale=[1, 1.5], mirror=False)") == Joint(
            scale=(1, 1.5), rotate=10.0, blur=0.5
        )


def test_a_batch_in_a_view_comes_from_the_view_of_its_image(tmp_path: Path) -> None:
    """Places are remembered image by image: both images are asked for, in turn."""
    split = datasets.load("drive", root=write_drive(tmp_path), crop=5, patches=2).train
    first, again = (list(split.batches(1, seed=0, epoch=0, shuffle=False)) for _ in range(2))
    assert equal(iter(first), iter(again))
    assert len({tuple(x.flatten().tolist()) for x, _ in first}) == 4
