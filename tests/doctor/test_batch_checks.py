"""Traps of the batches, and what is read off a loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import deepsup as ds
from deepsup.doctor.batch_checks import doubled, length, sizes_of
from deepsup.errors import ConfigError
from deepsup.evaluation.loaders import overlapping
from tests.support.patients import OneValue, attached, examined, only
from tests.support.small_nets import CLASSES, Plain, Residual, images, labels


def test_a_loader_in_place_of_a_batch_is_said_in_one_line() -> None:
    loader = DataLoader(TensorDataset(images(4), labels(4)), batch_size=2)
    for given in (None, loader, iter(loader), loader.dataset, (batch for batch in loader)):
        found = ds.diagnose(Plain(), given, at=["relu1"])
        only(found, "forward-failed", "sample", "Pass a batch, not the loader: sample, target = next(iter(loader))")
    assert not ds.diagnose(Plain(), *next(iter(loader)), at=["relu1"])


def loader(samples: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images(samples), labels(samples)), **options)


def test_a_last_batch_of_one_is_read_off_the_loader() -> None:
    model = OneValue()
    only(examined(model, batches=loader(9, batch_size=4)), "one-value-per-channel", "layer 'norm'", "drop_last=True")
    assert not examined(model, batches=loader(9, batch_size=4, drop_last=True))
    only(
        examined(model, batches=[(images(4), labels(4)), (images(1), labels(1))]),
        "one-value-per-channel",
        "layer 'norm'",
    )


def test_batch_sizes_are_told_without_reading_a_batch() -> None:
    class Endless(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("a batch was read")

    assert sizes_of(loader(9, batch_size=4)) == {4, 1}
    assert sizes_of(loader(3, batch_size=4)) == {3}
    assert sizes_of(loader(9, batch_size=4, drop_last=True)) == {4}
    assert sizes_of(DataLoader(Endless(), batch_size=4)) is None
    assert sizes_of(loader(9, batch_size=None)) is None
    assert sizes_of([(images(3), labels(3))]) == {3}
    assert sizes_of(iter([])) is None


def test_a_lone_sample_is_doubled_with_its_target() -> None:
    x, y = doubled(images(1), labels(1))
    assert (len(x), len(y)) == (2, 2)
    assert doubled(images(3), None)[1] is None
    assert length((torch.ones(()), images(3))) == 3
    assert length({"x": images(5)}) == 5


def test_a_batch_without_a_second_crop_is_found_and_the_first_step_does_refuse_it() -> None:
    net = staged(method="cds")
    x, one = images(4), torch.tensor([0, 1, 2, 3])
    found = ds.diagnose(net, x, one)
    assert "the two halves of these 4 labels differ" in only(found, "one-crop", "batch", "torch.cat([y, y])").what
    with pytest.raises(ConfigError, match="compares two crops"):
        ds.Objective(net.plan)(net(x), one)
    assert not ds.diagnose(net, x, torch.tensor([0, 1, 0, 1]))
    assert ds.Objective(net.plan)(net(x), torch.tensor([0, 1, 0, 1])).total.isfinite()


def test_an_odd_number_of_crops_is_found_with_and_without_labels() -> None:
    net = staged(method="cds")
    assert "the target is of 3" in only(ds.diagnose(net, images(3), labels(3)), "one-crop", "batch").what
    assert "the sample is of 3" in only(ds.diagnose(net, images(3)), "one-crop", "batch").what
    only(ds.diagnose(net, images(1), labels(1)), "one-crop", "batch")
    assert not ds.diagnose(net, images(4))
    assert not ds.diagnose(staged(method="byot"), images(3), labels(3)), "it compares no crops"


def staged(**options: Any) -> ds.Supervised:
    model = Residual()
    return ds.attach(model, ds.plan(model, images(), **options))


def test_batches_that_do_not_overlap_are_found_where_the_method_needs_it() -> None:
    apart = [(images(4), labels(4)), (images(4), labels(4))]
    wrong = [(images(4), torch.tensor([0, 1, 2, 3])), (images(8), torch.tensor([0, 1, 2, 4, 0, 1, 2, 3]))]
    for method in ("dlb", "dlb(alpha=0.5)"):
        for batches in (apart, tuple(apart), wrong):
            found = examined(Plain(), method=method, batches=batches)
            only(found, "no-overlap", "batches", "deepsup.evaluation.loaders.overlapping(batches)", "data.overlap=true")
    assert not examined(Plain(), method="none", batches=apart)
    assert not examined(attached(), batches=apart)
    plan = ds.plan(Plain(), images(), method="dlb")
    only(examined(Plain(), plan=plan, batches=apart), "no-overlap", "batches")
    only(examined(Plain(), objective=ds.Objective(plan), batches=apart), "no-overlap", "batches")


def test_batches_that_overlap_are_not_found_wherever_in_the_epoch_they_are_from() -> None:
    batches = list(overlapping([(images(4), torch.randperm(40)[:4] % CLASSES) for _ in range(4)]))
    assert [len(x) for x, _ in batches] == [4, 8, 8, 8]
    model = Plain()
    for several in (batches, batches[1:], batches[:1], [], [images(4), images(4)], loader(8, batch_size=4)):
        assert "no-overlap" not in examined(model, method="dlb", batches=several).codes
    objective = ds.Objective(ds.plan(model, images(), method="dlb"))
    for x, y in batches:
        assert objective(model(x), y).total.isfinite()
