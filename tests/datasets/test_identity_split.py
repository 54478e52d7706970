"""A split of identities: batches of whole identities by seed and epoch, on any number of processes, from any batch on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deepsup.datasets import IdentitySplit
from deepsup.errors import ConfigError, DatasetError
from deepsup.evaluation.loaders import SplitLoader
from tests.support.augmented_splits import epoch_of, same
from tests.support.numbered_splits import flat, forks

IMAGES = [9, 2, 5, 4, 7, 4, 12, 3]  # of each identity


def training(**options: Any) -> IdentitySplit:
    labels = torch.arange(len(IMAGES)).repeat_interleave(torch.tensor(IMAGES))
    count = len(labels)
    pixels = torch.randint(0, 256, (count, 3, 16, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    defaults: dict[str, Any] = {
        "identities": labels,
        "cameras": torch.arange(count) % 3,
        "names": [f"{i}.png" for i in range(count)],
        "class_names": [f"{i:04}" for i in range(len(IMAGES))],
        "shape": (16, 8),
    }
    return IdentitySplit(pixels, **defaults | options)


def searched(**options: Any) -> IdentitySplit:
    return training(queries=torch.arange(sum(IMAGES)) < 5, **options)


def labels_of(split: IdentitySplit, batch_size: int, **options: Any) -> list[list[int]]:
    return [y.tolist() for _, y in epoch_of(split, batch_size, **options)]


def test_a_batch_has_k_images_of_each_of_its_identities_and_there_are_as_many_as_is_said() -> None:
    split = training(per_identity=3)
    batches = labels_of(split, 12)
    assert len(batches) == split.n_batches(12) == SplitLoader(split, 12).length
    assert SplitLoader(split, 12).batch_sizes == {12}
    for batch in batches:
        assert sorted(batch.count(who) for who in set(batch)) == [3, 3, 3, 3]


def test_evaluation_reads_every_image_once_in_order() -> None:
    split = training(per_identity=3)
    assert flat(labels_of(split, 12, shuffle=False)) == split.labels.tolist()
    assert split.n_batches(12, shuffle=False) == len(labels_of(split, 12, shuffle=False)) != split.n_batches(12)


@pytest.mark.parametrize("views", [1, 2])
def test_from_any_batch_on_the_epoch_goes_on_to_the_byte(views: int) -> None:
    split = training(per_identity=2, augment="erasing(padding=2)", views=views, spread=True)
    whole = epoch_of(split, 6)
    assert len(whole) > 3
    for start in range(1, len(whole)):
        assert same(epoch_of(split, 6, start=start), whole[start:])
    assert not same(epoch_of(split, 6, epoch=2), whole)


def test_the_images_of_a_batch_are_those_of_its_labels() -> None:
    plain = training()
    own = {x.numpy().tobytes(): int(y) for x, y in (b for b in epoch_of(plain, 1, shuffle=False))}
    for x, y in epoch_of(training(per_identity=3), 12):
        assert [own[image[None].numpy().tobytes()] for image in x] == y.tolist()


def test_processes_have_whole_identities_of_the_same_batches() -> None:
    split = training(per_identity=2)
    ranks = [labels_of(split, 4, rank=rank, world=2) for rank in (0, 1)]
    assert [len(r) for r in ranks] == [split.n_batches(4, 2)] * 2
    for first, second in zip(*ranks, strict=True):
        assert not set(first) & set(second)
        assert all((first + second).count(who) == 2 for who in first + second)


def test_spread_takes_different_cameras() -> None:
    mixed = training(per_identity=3, spread=True)
    cameras = {image.numpy().tobytes(): int(c) for image, c in zip(_plain(mixed), mixed.cameras, strict=True)}  # type: ignore[arg-type]
    for x, y in epoch_of(mixed, 12):
        for part, who in zip(x.split(3), y.split(3), strict=True):
            if IMAGES[int(who[0])] % 3 == 0:  # as many images on each camera
                assert len({cameras[image.numpy().tobytes()] for image in part}) == 3


def _plain(split: IdentitySplit) -> list[torch.Tensor]:
    return [image for x, _ in epoch_of(split, 4, shuffle=False) for image in x]


@forks
def test_workers_change_nothing() -> None:
    split, read_ahead = (training(per_identity=2, augment="erasing(padding=2)", workers=n) for n in (0, 2))
    assert same(epoch_of(split, 8), epoch_of(read_ahead, 8))


def test_a_search_is_served_by_row() -> None:
    split = searched()
    assert split.searched
    assert not training().searched
    assert flat(labels_of(split, 8, shuffle=False)) == list(range(sum(IMAGES)))
    assert int(split.queries.sum()) == 5
    assert torch.equal(split.pixels(7), split.images[7])  # type: ignore[index]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size=10 cannot hold 4 images of each identity"):
        training(per_identity=4).n_batches(10)
    with pytest.raises(
        DatasetError,
        match=r"a batch of 18 images.* needs 9 identities, and there are 8\. Set batch_size to 16",
    ):
        epoch_of(training(per_identity=2), 18)
    with pytest.raises(ConfigError, match="spread=true needs cameras, and none is known"):
        training(per_identity=2, spread=True, cameras=None)
    with pytest.raises(ConfigError, match=r"spread=true needs data\.per_identity"):
        training(spread=True)
    with pytest.raises(ConfigError, match="twice as it is"):
        training(views=2)
