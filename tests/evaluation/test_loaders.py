"""Tests of loaders."""

from __future__ import annotations

import pytest
import torch

from deepsup.errors import ConfigError
from deepsup.evaluation.loaders import IterableLoader, SplitLoader, overlapping, samples_in
from tests.support.augmented_splits import (
    bytes_split,
    numbered,
    same,
)


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
    def test_a_loader_overlaps_across_epochs_from_any_start(self, views: int) -> None:
        split = bytes_split(augment="standard", views=views)
        plain, loader = (SplitLoader(split, 4, seed=2, overlap=overlap) for overlap in (False, True))
        everything = [batch for epoch in range(3) for batch in plain.epoch(epoch)]
        expected = list(overlapping(everything, views=views))
        assert len(expected[0][1]) == 4
        assert len(expected[3][1]) == 3 + 4
        assert loader.length == 3
        for epoch in range(3):
            for start in range(4):
                rest = list(loader.epoch(epoch, start=start))
                assert [len(y) for _, y in rest] == [len(y) for _, y in expected[3 * epoch + start : 3 * epoch + 3]]
                assert not rest or same(rest, expected[3 * epoch + start : 3 * epoch + 3])

    def test_each_process_overlaps_its_own_share(self) -> None:
        split = bytes_split(augment="standard")
        for rank in (0, 1):
            plain, loader = (SplitLoader(split, 2, rank=rank, world=2, overlap=overlap) for overlap in (False, True))
            assert same(list(loader.epoch(0)), list(overlapping(plain.epoch(0))))

    @pytest.mark.parametrize("views", [1, 2])
    @pytest.mark.parametrize("overlap", [False, True])
    @pytest.mark.parametrize(
        ("count", "batch_size", "world"), [(11, 4, 1), (12, 4, 1), (3, 4, 1), (11, 2, 2), (1, 4, 2)]
    )
    def test_the_sizes_that_are_promised_are_those_that_come(
        self, count: int, batch_size: int, world: int, overlap: bool, views: int
    ) -> None:
        split = bytes_split(count, augment="standard", views=views)
        loader = SplitLoader(split, batch_size, world=world, overlap=overlap)
        assert {len(y) for epoch in range(3) for _, y in loader.epoch(epoch)} == loader.batch_sizes

    def test_only_training_overlaps(self) -> None:
        with pytest.raises(ConfigError, match="overlap=True is for training"):
            SplitLoader(bytes_split(), 4, shuffle=False, overlap=True)

    def test_batches_arrive_on_the_device(self) -> None:
        loader = SplitLoader(bytes_split(augment="standard"), 4, overlap=True, device="meta")
        assert {(x.device.type, y.device.type) for x, y in loader.epoch(1)} == {("meta", "meta")}


def test_samples_of_every_form_of_target_are_counted() -> None:
    y = torch.zeros(5, 3)
    forms = (y, {"target": y, "mask": y}, {"main": y, "side": y[:, 0]}, (y, y, 0.3), [y, y])
    assert [samples_in(form) for form in forms] == [5] * 5
    assert samples_in({"target": (y, y, 0.3)}) == 5
    assert [samples_in(form) for form in (None, "text", {}, torch.tensor(1.0))] == [1] * 4


@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize("wrapped", [False, True])
def test_batches_of_anybody_overlap_once_from_any_start(wrapped: bool, start: int) -> None:
    new = [(torch.randn(4, 1), torch.tensor([k, k + 1, k + 2, k + 3])) for k in range(5)]
    twice = list(overlapping(new))
    loader = IterableLoader(twice if wrapped else new, overlap=True)
    assert same(list(loader.epoch(0, start=start)), twice[start:])
    assert loader.batch_sizes is None
    plain = IterableLoader(new)
    assert same(list(plain.epoch(0, start=start)), new[start:])
    assert [y for _, y in IterableLoader([(1, "a"), (2, "b")], overlap=True).epoch(0)] == ["a", "b"]
