"""The batching contract: order and augmentation are a pure function of (seed, epoch), on any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepsup import datasets
from deepsup.datasets import FolderSplit, Split
from deepsup.errors import ConfigError, DatasetError
from tests.support.numbered_splits import equal, flat, forks, indices, numbered


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
