"""From stored images to training batches: augmentation against slow loops, two views, overlap, and no waiting."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import functional as reference

from deepsup import datasets
from deepsup.datasets import ArraySplit, Split, transforms
from deepsup.datasets.splits import generator
from deepsup.datasets.transforms import RANGE, View, crop_and_mirror
from deepsup.errors import ConfigError
from deepsup.evaluation import devices
from deepsup.evaluation.loaders import SplitFeed, overlapping
from deepsup.settings.section import check
from deepsup.settings.training import DataConfig, EngineConfig, TrainConfig
from deepsup.training.fit import fit
from deepsup.training.prepare import load_data, training_feed
from tests.support.tiny_images import write_pets

torch.set_num_threads(1)

Batch = tuple[Tensor, Tensor]


def draws(count: int, width: int = 11) -> Tensor:
    return torch.randint(0, RANGE, (count, width), generator=torch.Generator().manual_seed(0))


def bytes_split(count: int = 11, *, side: int = 20, channels: int = 3, **options: Any) -> ArraySplit:
    """Random bytes whose label is their index, normalised by made-up statistics."""
    images = torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(1))
    statistics = {"mean": torch.full((channels,), 0.4), "std": torch.full((channels,), 0.2)}
    names = [str(i) for i in range(count)]
    return ArraySplit(images.to(torch.uint8), torch.arange(count), class_names=names, **statistics, **options)


def epoch_of(split: Split, batch_size: int = 4, **arguments: Any) -> list[Batch]:
    return list(split.batches(batch_size, **{"seed": 3, "epoch": 1, "shuffle": True} | arguments))


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) > 0 and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
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


AUGMENTED = ["standard", "reflect", "cutout(length=6)", "contrastive(length=6)"]


@pytest.fixture(params=[*AUGMENTED, "folder/standard", "folder/contrastive"])
def pairs(request: pytest.FixtureRequest, tmp_path: Path) -> Split:
    """A split that serves two views, 11 or 7 images."""
    kind, _, augment = request.param.rpartition("/")
    if kind == "folder":
        root = write_pets(tmp_path / "pets")
        return datasets.load("folder", root=root, size=10, augment=augment, views=2).train
    return bytes_split(augment=augment, views=2)


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


class Watch(TorchDispatchMode):
    """Sees every operation: refuses those that wait for a device's numbers, notes what moves between devices.

    What reads a CPU tensor without an operation, such as `tolist`, is seen on the device "meta", which has no numbers.
    """

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        waits = any(name in func.__name__ for name in self.WAITING)
        waits |= func.__name__.startswith("index") and any(_is_mask(each) for each in args[1:])
        assert not waits, f"{func} waits for the device"
        target = kwargs.get("device")
        if "_to_copy" in func.__name__ and target is not None and torch.device(target) != args[0].device:
            self.moved.append(args[0].shape)
        return func(*args, **kwargs)


def _is_mask(indices: Any) -> bool:
    each = indices if isinstance(indices, (list, tuple)) else [indices]
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in each)


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


def numbered(sizes: list[int]) -> list[Batch]:
    """Batches of samples that are all different, so that a sample tells where it came from."""
    ids = torch.arange(sum(sizes)).split(sizes)
    return [(each.float().view(-1, 1), each) for each in ids]


class TestOverlapping:
    def test_every_batch_begins_with_the_one_before(self) -> None:
        new = numbered([3, 3, 2, 3])
        found = list(overlapping(new))
        assert [y.tolist() for _, y in found] == [[0, 1, 2], [0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7], [6, 7, 8, 9, 10]]
        assert all(torch.equal(x.flatten(), y.float()) for x, y in found)
        assert found[0][0] is new[0][0]

    def test_pairs_of_views_come_back_in_their_second_view(self) -> None:
        pairs = [(torch.cat([x, -x - 1]), y.repeat(2)) for x, y in numbered([2, 2])]
        (_, first), (x, y) = overlapping(pairs, views=2)
        assert first.tolist() == [0, 1]
        assert x.flatten().tolist() == [-1, -2, 2, 3]
        assert y.tolist() == [0, 1, 2, 3]

    def test_reads_no_further_than_it_must(self) -> None:
        source = iter(numbered([1, 1, 1]))
        next(overlapping(source))
        assert next(source)[1].tolist() == [1]

    @pytest.mark.parametrize("views", [1, 2])
    def test_a_feed_overlaps_across_epochs_from_any_start(self, views: int) -> None:
        split = bytes_split(augment="standard", views=views)
        plain, feed = (SplitFeed(split, 4, seed=2, overlap=overlap) for overlap in (False, True))
        everything = [batch for epoch in range(3) for batch in plain.epoch(epoch)]
        expected = list(overlapping(everything, views=views))
        assert len(expected[0][1]) == 4
        assert len(expected[3][1]) == 3 + 4
        assert feed.length == 3
        for epoch in range(3):
            for start in range(4):
                rest = list(feed.epoch(epoch, start=start))
                assert [len(y) for _, y in rest] == [len(y) for _, y in expected[3 * epoch + start : 3 * epoch + 3]]
                assert not rest or same(rest, expected[3 * epoch + start : 3 * epoch + 3])

    def test_each_process_overlaps_its_own_share(self) -> None:
        split = bytes_split(augment="standard")
        for rank in (0, 1):
            plain, feed = (SplitFeed(split, 2, rank=rank, world=2, overlap=overlap) for overlap in (False, True))
            assert same(list(feed.epoch(0)), list(overlapping(plain.epoch(0))))

    @pytest.mark.parametrize("views", [1, 2])
    @pytest.mark.parametrize("overlap", [False, True])
    @pytest.mark.parametrize(
        ("count", "batch_size", "world"), [(11, 4, 1), (12, 4, 1), (3, 4, 1), (11, 2, 2), (1, 4, 2)]
    )
    def test_the_sizes_that_are_promised_are_those_that_come(
        self, count: int, batch_size: int, world: int, overlap: bool, views: int
    ) -> None:
        split = bytes_split(count, augment="standard", views=views)
        feed = SplitFeed(split, batch_size, world=world, overlap=overlap)
        assert {len(y) for epoch in range(3) for _, y in feed.epoch(epoch)} == feed.batch_sizes

    def test_only_training_overlaps(self) -> None:
        with pytest.raises(ConfigError, match="overlap=True is for training"):
            SplitFeed(bytes_split(), 4, shuffle=False, overlap=True)

    def test_batches_arrive_on_the_device(self) -> None:
        feed = SplitFeed(bytes_split(augment="standard"), 4, overlap=True, device="meta")
        assert {(x.device.type, y.device.type) for x, y in feed.epoch(1)} == {("meta", "meta")}


class TestSettings:
    def test_data(self) -> None:
        settings = {"augment": "standard", "views": 2, "overlap": True, "classes": 3}
        data = check(DataConfig, settings, where="test")
        assert (data.views, data.overlap, data.classes) == (2, True, 3)
        config = TrainConfig(data=data.model_copy(update={"augment": "standard(mirror=False)", "limit": 40}))
        loaded = load_data(config)
        assert (loaded.train.views, loaded.classes, len(loaded.train)) == (2, 3, 40)
        feed = training_feed(config, loaded)
        assert [len(y) for _, y in feed.epoch(0)] == [32, 32 + 8]  # the second time in the second view
        assert feed.batch_sizes == {32, 40}

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"views": 2}, "views: 2 with augment: none would show every image twice"),
            ({"views": 3, "augment": "standard"}, "views cannot be 3"),
            ({"classes": 1}, "classes cannot be 1"),
        ],
    )
    def test_data_that_makes_no_sense(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            check(DataConfig, settings, where="test")

    @pytest.mark.parametrize("mode", [False, True, "reduce-overhead", "max-autotune"])
    def test_compile_takes_a_mode(self, mode: bool | str, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = check(EngineConfig, {"compile": mode}, where="test")
        assert settings.compile == mode
        asked: list[Any] = []
        monkeypatch.setattr(torch, "compile", lambda net, **options: asked.append(options) or net)
        if mode:
            devices.compiled(nn.Identity(), settings.compile)
            assert asked == [{"mode": None if mode is True else mode}]

    def test_no_other_mode(self) -> None:
        with pytest.raises(ConfigError, match="compile cannot be 'fast'"):
            check(EngineConfig, {"compile": "fast"}, where="test")

    def test_tf32_ends_with_the_runs_that_ask_for_it(self) -> None:
        assert torch.get_float32_matmul_precision() == "highest"
        seen = []
        for tf32 in (False, True, True, False):
            devices.start(EngineConfig(accelerator="cpu", tf32=tf32))
            seen.append(torch.get_float32_matmul_precision())
        assert seen == ["highest", "high", "high", "highest"]

    def test_tf32_leaves_what_the_user_has_set(self) -> None:
        torch.set_float32_matmul_precision("medium")
        try:
            for tf32, expected in ((False, "medium"), (True, "high"), (False, "medium")):
                devices.start(EngineConfig(accelerator="cpu", tf32=tf32))
                assert torch.get_float32_matmul_precision() == expected
        finally:
            torch.set_float32_matmul_precision("highest")


class Small(nn.Module):
    """Remembers in which memory layout it read its images and kept its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2)
        self.fc = nn.Linear(8, 11)
        self.layouts: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        tensors = (x, self.conv2.weight)
        if self.training:
            self.layouts.append(tuple(t.is_contiguous(memory_format=torch.channels_last) for t in tensors))
        return self.fc(self.conv2(self.conv1(x).relu()).relu().mean((2, 3)))


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
