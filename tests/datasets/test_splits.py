"""The batching contract: order and augmentation are a pure function of (seed, epoch), on any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepsup import datasets
from deepsup.datasets import FolderSplit, Split
from deepsup.datasets.splits import balanced_order
from deepsup.errors import ConfigError, DatasetError
from deepsup.evaluation.loaders import SplitLoader
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


def test_a_balanced_epoch_has_every_class_as_often_and_others_next_time() -> None:
    labels = torch.tensor([0] * 900 + [1] * 90 + [3] * 10)
    one, other = (balanced_order(labels, seed=0, epoch=epoch) for epoch in (0, 1))
    for order in (one, other):
        assert len(order) == len(labels)
        counts = torch.bincount(labels[order], minlength=4)
        assert counts[2] == 0
        assert all(abs(int(counts[c]) - 333) < 60 for c in (0, 1, 3))  # four deviations
    assert not torch.equal(one, other)
    before = torch.get_rng_state()
    assert torch.equal(balanced_order(labels, seed=0, epoch=1), other)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(torch.unique(one[labels[one] == 0])) > 250  # of the many not always the same


def test_balanced_batches_go_on_in_the_middle_and_are_shared_out() -> None:
    data = datasets.load("digits", limit=50)
    loader = SplitLoader(data.train, 8, seed=1, balanced=True)
    whole = list(loader.epoch(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[3:], loader.epoch(2, start=3), strict=True))
    order = balanced_order(data.train.labels, seed=1, epoch=2)  # type: ignore[attr-defined]
    assert torch.equal(torch.cat([y for _, y in whole]), data.train.labels[order])  # type: ignore[attr-defined]
    halves = [list(SplitLoader(data.train, 4, seed=1, balanced=True, rank=r, world=2).epoch(2)) for r in (0, 1)]
    for full, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(full[1], torch.cat([y for _, y in parts]))
    plain = list(SplitLoader(data.train, 8, seed=1).epoch(2))
    assert not all(torch.equal(a[1], b[1]) for a, b in zip(whole, plain, strict=True))
    with pytest.raises(ConfigError, match="balanced=True needs one class an image"):
        next(SplitLoader(WithoutClasses(), 1, balanced=True).epoch(0))


class WithoutClasses(Split):
    task = "segmentation"

    def __init__(self) -> None:
        super().__init__(samples=3, class_names=["a", "b"], channels=1, shape=(2, 2), augment="none", kinds=0, views=1)

    def _read(self, plan: Any, **_: Any) -> Any:
        return iter(())
