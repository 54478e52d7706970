"""From stored images to training batches: augmentation against slow loops, two views, overlap, and no waiting."""

from __future__ import annotations

import colorsys
from typing import Any

import pytest
import torch
from torch.nn import functional
from torchvision.transforms.v2 import RandAugment
from torchvision.transforms.v2 import functional as reference

from deepsup.datasets import transforms
from deepsup.datasets.splits import generator
from deepsup.datasets.transforms import RANGE, View, crop_and_mirror
from deepsup.errors import ConfigError
from deepsup.evaluation import devices
from deepsup.training.fit import fit
from tests.support.augmented_splits import (
    Small,
    bytes_split,
    draws,
)


class TestCropAndMirror:
    @pytest.mark.parametrize("edge", ["black", "grey", "reflect"])
    @pytest.mark.parametrize("padding", [0, 1, 4])
    @pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
    def test_against_a_slow_loop(self, edge: Any, padding: int, kind: torch.dtype) -> None:
        images = torch.randint(0, 256, (40, 2, 9, 9)).to(kind)
        numbers, offsets, side = draws(40, 3), 2 * padding + 1, (padding,) * 4
        cropped = crop_and_mirror(images, numbers, View(padding=padding, edge=edge))
        assert cropped.dtype == kind
        for image, (down, right, mirror), result in zip(images, numbers.tolist(), cropped, strict=True):
            if edge == "reflect":
                padded = functional.pad(image.float(), side, mode="reflect").to(kind)
            else:
                grey = 128 if kind == torch.uint8 else 128 / 255
                padded = functional.pad(image, side, value=grey if edge == "grey" else 0)
            window = padded[:, down % offsets : down % offsets + 9, right % offsets : right % offsets + 9]
            assert torch.equal(result, window.flip(-1) if mirror % 2 else window)

    def test_without_mirror_nothing_is_mirrored(self) -> None:
        images = torch.arange(8.0).expand(50, 1, 8, 8)
        cropped = crop_and_mirror(images, draws(50, 3), View(padding=0, mirror=False))
        assert torch.equal(cropped, images)
        mirrored = (crop_and_mirror(images, draws(50, 3), View(padding=0)) != images).flatten(1).any(1)
        assert 10 < mirrored.sum() < 40


class TestHole:
    @pytest.mark.parametrize("length", [1, 4, 5])
    def test_against_the_published_loop(self, length: int) -> None:
        numbers = draws(60, 5)
        found = transforms.hole(numbers, side=9, length=length)
        for row, mask in zip(numbers.tolist(), found[:, 0], strict=True):
            y, x = row[3] % 9, row[4] % 9
            expected = torch.zeros(9, 9, dtype=torch.bool)
            for i in range(max(0, y - length // 2), min(9, y - length // 2 + length)):
                for j in range(max(0, x - length // 2), min(9, x - length // 2 + length)):
                    expected[i, j] = True
            assert torch.equal(mask, expected)

    def test_cutout_fills_a_crop_with_the_mean(self) -> None:
        split = bytes_split(30, augment="cutout(length=8)")
        x, _ = next(split.batches(30, seed=5, epoch=2, shuffle=False))
        numbers = torch.randint(0, RANGE, (30, 5), generator=generator("augment", 5, 2, 0))
        crops = crop_and_mirror(split.images, numbers, View())
        holes = transforms.hole(numbers, side=20, length=8)
        assert torch.equal(x, ((crops / 255 - 0.4) / 0.2).masked_fill(holes, 0))
        assert (x.eq(0).all(1) & holes[:, 0]).flatten(1).sum(1).min() >= 16


class TestColours:
    def test_against_torchvision_image_by_image(self) -> None:
        pixels, numbers = torch.rand(150, 3, 6, 6), draws(150)
        found = transforms.coloured(pixels, numbers)
        kinds = set()
        for image, row, result in zip(pixels, numbers.tolist(), found, strict=True):
            light, contrast, saturation, hue, coloured, grey = (value / RANGE for value in row[5:])
            expected = image
            if coloured < 0.8:
                expected = reference.adjust_brightness(expected, 0.6 + 0.8 * light)
                expected = reference.adjust_contrast(expected, 0.6 + 0.8 * contrast)
                expected = reference.adjust_saturation(expected, 0.6 + 0.8 * saturation)
                expected = reference.adjust_hue(expected, 0.2 * hue - 0.1)
            if grey < 0.2:
                expected = reference.rgb_to_grayscale(expected, num_output_channels=3)
            torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)
            kinds.add((coloured < 0.8, grey < 0.2))
        assert len(kinds) == 4

    def test_four_in_five_are_coloured_and_one_in_five_is_grey(self) -> None:
        pixels = torch.rand(4000, 3, 2, 2)
        found = transforms.coloured(pixels, draws(4000))
        grey = (found[:, 0] == found[:, 2]).flatten(1).all(1)
        kept = (found == pixels).flatten(1).all(1)
        assert abs(float(grey.float().mean()) - 0.2) < 0.02
        assert abs(float(kept.float().mean()) - 0.2 * 0.8) < 0.02

    def test_hue_against_the_standard_library(self) -> None:
        pixels = torch.rand(50, 3, 1, 1)
        pixels[:4] = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.2], [1, 0, 0]]).view(4, 3, 1, 1)
        shift = torch.linspace(-0.5, 0.5, 50).view(-1, 1, 1, 1)
        found = transforms.hue_shifted(pixels, shift)
        for pixel, turn, result in zip(pixels.flatten(1).tolist(), shift.flatten().tolist(), found, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            torch.testing.assert_close(result.flatten(), torch.tensor(expected), atol=1e-5, rtol=0)

    def test_one_channel_has_light_and_contrast_only(self) -> None:
        numbers = draws(40)
        pixels = torch.rand(40, 1, 5, 5)
        as_grey_rgb = transforms.coloured(pixels.expand(-1, 3, -1, -1), numbers)
        torch.testing.assert_close(transforms.coloured(pixels, numbers), as_grey_rgb[:, :1], atol=1e-3, rtol=0)


class TestNames:
    def test_options(self) -> None:
        assert transforms.parse("none") == ()
        assert transforms.parse("standard") == (View(),)
        assert transforms.parse("reflect(padding=2)") == (View(padding=2, edge="reflect"),)
        assert transforms.parse("cutout(length=20, padding=0, mirror=False)") == (
            View(padding=0, mirror=False, hole=20),
        )
        first, second = transforms.parse("contrastive")
        assert (first.edge, first.hole, first.hole_fill, first.colours) == ("grey", 16, "black", False)
        assert (second.edge, second.hole, second.colours) == ("black", 0, True)
        assert [view.draws for view in (View(), View(hole=3), second)] == [3, 5, 11]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("cutuot", "no augmentation is called 'cutuot'. Closest: cutout.*Augmentations: none, standard, reflect"),
            ("standard(length=3)", "has no option 'length'. Options: padding, mirror"),
            ("cutout(length=0)", "length to be 1 or more whole pixels; found 0"),
            ("cutout(length=True)", "whole pixels; found True"),
            ("standard(padding=1.5)", "padding to be 0 or more whole pixels; found 1.5"),
            ("standard(mirror=1)", "mirror to be True or False; found 1"),
        ],
    )
    def test_mistakes(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            transforms.parse(text)

    def test_images_need_room(self) -> None:
        with pytest.raises(ConfigError, match="squares of 20 pixels from images of 20"):
            bytes_split(augment="cutout(length=20)")
        with pytest.raises(ConfigError, match="cannot reflect 20 pixels of images of 20"):
            bytes_split(augment="reflect(padding=20)")


class TestChannelsLast:
    def test_only_images_change_their_layout(self) -> None:
        x = torch.rand(2, 3, 4, 4)
        turned = devices.channels_last(x)
        assert turned.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(turned, x)
        tokens = torch.rand(2, 3, 4)
        assert devices.channels_last(tokens) is tokens
        assert devices.channels_last([x])[0] is x

    def test_training_sees_it_and_the_weights_leave_as_they_came(self) -> None:
        results = {}
        for wanted in (False, True):
            torch.manual_seed(0)
            net = Small()
            engine = {"accelerator": "cpu", "channels_last": wanted}
            fit(net, bytes_split(22 // 2), epochs=2, batch_size=4, lr=0.01, engine=engine, log={"gradients": 0})
            steps = net.layouts[-6:]
            assert steps == [(wanted, wanted)] * 6
            assert all(p.is_contiguous() for p in net.parameters())
            results[wanted] = torch.cat([p.detach().flatten() for p in net.parameters()])
        torch.testing.assert_close(results[True], results[False], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_randaugment_is_torchvisions_image_by_image(kind: str) -> None:
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=generator("images"))
    images = images if kind == "bytes" else images / 255
    (view,) = transforms.parse("randaugment(operations=3, magnitude=12)")
    draws = torch.randint(0, RANGE, (6, view.draws), generator=generator("draws"))
    before = torch.get_rng_state()
    changed = transforms.operated(images, draws, view)
    assert torch.equal(torch.get_rng_state(), before)
    by_hand = RandAugment(num_ops=3, magnitude=12)
    for image, row, found in zip(images, draws, changed, strict=True):
        torch.manual_seed(int(row[-1]))
        assert torch.equal(found, by_hand(image))
    assert not torch.equal(changed, images)
    turned = transforms.operated(images.flip(0), draws.flip(0), view)
    assert torch.equal(turned.flip(0), changed)  # whatever batch they are in
    for text in ("randaugment(operations=0)", "randaugment(magnitude=31)"):
        with pytest.raises(ConfigError, match="randaugment"):
            transforms.parse(text)
