"""Patches: image and labels move together, labels stay exact, and all is a function of seed, epoch and sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from deepsup import datasets
from deepsup.datasets import paired_transforms
from deepsup.datasets.mask_files import VOID
from deepsup.datasets.paired_transforms import Joint, Pixels
from tests.support.patches import EPOCH, FACTOR, drawn, equal, pixels_of, red, training
from tests.support.tiny_layouts import SHAPE, write_drive


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
