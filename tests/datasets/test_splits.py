"""The batching contract: order and augmentation are a pure function of (seed, epoch), on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from deepsup import datasets
from deepsup.datasets import ArraySplit, FolderSplit, Split
from deepsup.datasets.normalisation import channel_statistics
from deepsup.errors import ConfigError, DatasetError
from tests.support.tiny_images import write_pets

torch.set_num_threads(1)

forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # newer Pythons dislike workers that fork


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "pets")


def numbered(count: int, *, side: int = 8, augment: str = "none") -> ArraySplit:
    """Images whose label is their index, so that a batch tells which samples it holds."""
    pixels = torch.arange(count * side * side, dtype=torch.float32).view(count, 1, side, side)
    return ArraySplit(pixels, torch.arange(count), class_names=[str(i) for i in range(count)], augment=augment)


def equal(left: Iterator[tuple[Tensor, Tensor]], right: Iterator[tuple[Tensor, Tensor]]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return bool(pairs) and all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def indices(split: Split, batch_size: int, **arguments: Any) -> list[list[int]]:
    return [y.tolist() for _, y in split.batches(batch_size, **{"seed": 0, "epoch": 0, "shuffle": True} | arguments)]


def flat(lists: list[list[Any]]) -> list[Any]:
    return [item for inner in lists for item in inner]


@pytest.fixture(params=["array", "folder"])
def augmented(request: pytest.FixtureRequest, image_folder: Path) -> Split:
    if request.param == "array":
        return numbered(11, augment="standard")
    return datasets.load("folder", root=image_folder, size=10, augment="standard").train


class TestContract:
    def test_the_same_epoch_twice(self, augmented: Split) -> None:
        arguments: dict[str, Any] = {"seed": 3, "epoch": 2, "shuffle": True}
        assert equal(augmented.batches(3, **arguments), augmented.batches(3, **arguments))

    @pytest.mark.parametrize("other", [{"seed": 4}, {"epoch": 3}])
    def test_another_seed_or_epoch_differs(self, augmented: Split, other: dict[str, int]) -> None:
        arguments: dict[str, Any] = {"seed": 3, "epoch": 2, "shuffle": False}  # same order, so only crops can differ
        assert not equal(augmented.batches(3, **arguments), augmented.batches(3, **arguments | other))

    def test_a_start_in_the_middle_continues_the_same_epoch(self, augmented: Split) -> None:
        arguments: dict[str, Any] = {"seed": 3, "epoch": 2, "shuffle": True}
        rest = list(augmented.batches(2, **arguments))[2:]
        assert equal(iter(rest), augmented.batches(2, **arguments, start=2))

    def test_skipped_batches_are_never_read(self, image_folder: Path) -> None:
        split = datasets.load("folder", root=image_folder, size=10).validation
        assert isinstance(split, FolderSplit)
        split.paths[0].write_bytes(b"")
        assert len(list(split.batches(1, seed=0, epoch=0, shuffle=False, start=1))) == 3

    def test_the_global_random_state_is_neither_read_nor_written(self, augmented: Split) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = list(augmented.batches(3, seed=0, epoch=0, shuffle=True))
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(2)
        assert equal(iter(first), augmented.batches(3, seed=0, epoch=0, shuffle=True))

    def test_an_interleaved_consumer_changes_nothing(self, augmented: Split) -> None:
        whole = list(augmented.batches(3, seed=0, epoch=0, shuffle=True))
        interleaved = []
        for batch in augmented.batches(3, seed=0, epoch=0, shuffle=True):
            torch.rand(7)
            interleaved.append(batch)
        assert equal(iter(whole), iter(interleaved))

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_every_sample_once(self, shuffle: bool) -> None:
        seen = indices(numbered(11), 3, shuffle=shuffle)
        assert [len(batch) for batch in seen] == [3, 3, 3, 2]
        assert sorted(flat(seen)) == list(range(11))
        assert (flat(seen) == list(range(11))) is not shuffle

    def test_what_a_batch_is(self, augmented: Split) -> None:
        x, y = next(augmented.batches(3, seed=0, epoch=0, shuffle=True))
        assert x.shape == (3, augmented.channels, augmented.size, augmented.size)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)

    @pytest.mark.parametrize("drop_last", [True, False])
    @pytest.mark.parametrize(("batch_size", "world"), [(3, 1), (11, 1), (20, 1), (2, 2), (4, 3)])
    def test_counts_agree(self, batch_size: int, world: int, drop_last: bool) -> None:
        split = numbered(11)
        expected = split.n_batches(batch_size, world, drop_last=drop_last)
        if expected:
            found = indices(split, batch_size, world=world, drop_last=drop_last)
            assert len(found) == expected
            if drop_last:
                assert {len(batch) for batch in found} == {batch_size}
        else:
            with pytest.raises(DatasetError, match=f"drop_last leaves no batch: 11 images.*{batch_size} x {world}"):
                indices(split, batch_size, world=world, drop_last=drop_last)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [({"batch_size": 0}, "batch_size=0"), ({"start": -1}, "start=-1"), ({"rank": 2, "world": 2}, "rank=2")],
    )
    def test_impossible_counts_fail_at_once(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            numbered(4).batches(**{"batch_size": 2, "seed": 0, "epoch": 0, "shuffle": True} | arguments)


class TestProcesses:
    def test_slices_make_up_the_batches_of_one_process(self) -> None:
        split = numbered(12, augment="standard")
        arguments: dict[str, Any] = {"seed": 0, "epoch": 5, "shuffle": True}
        ranks = [list(split.batches(2, **arguments, rank=rank, world=3)) for rank in range(3)]
        for step, (x, y) in enumerate(split.batches(6, **arguments)):
            assert torch.equal(torch.cat([ranks[rank][step][0] for rank in range(3)]), x)
            assert torch.equal(torch.cat([ranks[rank][step][1] for rank in range(3)]), y)

    @pytest.mark.parametrize("count", [1, 2, 7, 11, 13])
    def test_training_gives_every_rank_the_same_steps_and_sizes(self, count: int) -> None:
        ranks = [indices(numbered(count), 2, rank=rank, world=4) for rank in range(4)]
        assert len({tuple(len(batch) for batch in rank) for rank in ranks}) == 1
        seen = flat(flat(ranks))
        assert set(seen) == set(range(count))
        assert 0 <= len(seen) - count < 4

    @pytest.mark.parametrize("count", [1, 2, 7, 11, 13])
    def test_evaluation_reads_every_sample_exactly_once(self, count: int) -> None:
        split = numbered(count)
        ranks = [indices(split, 2, rank=rank, world=4, shuffle=False) for rank in range(4)]
        assert sorted(flat(flat(ranks))) == list(range(count))
        assert len(ranks[0]) == split.n_batches(2, 4)

    @forks
    def test_workers_change_nothing(self, image_folder: Path) -> None:
        arguments: dict[str, Any] = {"seed": 1, "epoch": 0, "shuffle": True, "start": 1}
        alone, helped = (
            datasets.load("folder", root=image_folder, size=10, augment="standard", workers=workers).train
            for workers in (0, 2)
        )
        before = torch.get_rng_state()
        assert equal(alone.batches(2, **arguments), helped.batches(2, **arguments))
        assert torch.equal(before, torch.get_rng_state())

    def test_a_crop_depends_on_the_sample_not_on_the_batch(self, augmented: Split) -> None:
        single = torch.cat([x for x, _ in augmented.batches(1, seed=1, epoch=0, shuffle=False)])
        together = torch.cat([x for x, _ in augmented.batches(7, seed=1, epoch=0, shuffle=False)])
        assert torch.equal(single, together)


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
