"""The draw of P identities with K images: full, without repeats, of exact length, the same for the same seed and epoch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepsup.datasets.identity_draw import draw, length
from deepsup.errors import ConfigError, DatasetError


def people(seed: int, most: int = 9, identities: int = 11) -> Tensor:
    chance = torch.manual_seed(seed)
    counts = torch.randint(1, most + 1, (identities,), generator=chance)
    labels = torch.arange(3, 3 + identities).repeat_interleave(counts)
    return labels[torch.randperm(len(labels), generator=chance)]


def most_batches(labels: Tensor, at_once: int, each: int) -> int:
    """By trying every number."""
    chunks = [max(1, int(n) // each) for n in labels.unique(return_counts=True)[1]]
    return max(t for t in range(1, sum(chunks) + 1) if sum(min(c, t) for c in chunks) >= at_once * t)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("at_once", "each"), [(1, 1), (4, 2), (5, 4), (11, 3)])
def test_every_batch_is_full_of_different_identities_and_there_are_as_many_as_can_be(
    seed: int, at_once: int, each: int
) -> None:
    labels = people(seed, most=30 if seed % 2 else 9)
    found = draw(labels, at_once=at_once, each=each, seed=seed, epoch=3)
    assert found.shape == (length(labels, at_once=at_once, each=each), at_once, each)
    assert len(found) == most_batches(labels, at_once, each)
    who = labels[found]
    assert (who == who[:, :, :1]).all()  # one identity a row
    assert all(len(batch[:, 0].unique()) == at_once for batch in who)
    many = labels.unique(return_counts=True)
    enough = {int(i) for i, n in zip(*many, strict=True) if n >= each}
    used = [int(i) for i in found.flatten() if int(labels[i]) in enough]
    assert len(used) == len(set(used))  # no image twice, but of identities with too few


def test_the_draw_is_a_function_of_seed_and_epoch() -> None:
    labels = people(0, most=40)
    first = draw(labels, at_once=4, each=2, seed=1, epoch=2)
    torch.manual_seed(5)
    assert torch.equal(draw(labels.tolist(), at_once=4, each=2, seed=1, epoch=2), first)
    assert not torch.equal(draw(labels, at_once=4, each=2, seed=1, epoch=3), first)
    assert not torch.equal(draw(labels, at_once=4, each=2, seed=2, epoch=2), first)


def test_every_image_comes_in_some_epoch() -> None:
    labels = people(1)
    seen = {int(i) for epoch in range(40) for i in draw(labels, at_once=4, each=2, epoch=epoch).flatten()}
    assert seen == set(range(len(labels)))


def test_processes_have_whole_identities_of_one_batch() -> None:
    labels = people(2, most=20)
    whole = draw(labels, at_once=6, each=3)
    parts = [draw(labels, at_once=6, each=3, rank=rank, world=3) for rank in range(3)]
    assert [part.shape[1] for part in parts] == [2, 2, 2]
    for batch, shared in zip(whole, zip(*parts, strict=True), strict=True):
        assert {tuple(row) for row in batch.tolist()} == {tuple(row) for part in shared for row in part.tolist()}


def test_what_cannot_be_drawn_is_refused() -> None:
    labels = people(3)
    with pytest.raises(DatasetError, match="a batch of 12 different identities needs as many; found 11 identities"):
        draw(labels, at_once=12)
    with pytest.raises(ConfigError, match="6 identities a batch cannot be shared out to 4 processes whole"):
        draw(labels, at_once=6, world=4)
    with pytest.raises(ConfigError, match="each to be a whole number of at least 1; found 0"):
        draw(labels, at_once=4, each=0)


@pytest.mark.parametrize("seed", range(6))
def test_with_cameras_a_chunk_has_as_many_as_there_can_be(seed: int) -> None:
    labels = people(seed, most=20)
    cameras = torch.randint(0, 5, (len(labels),), generator=torch.manual_seed(seed))
    found = draw(labels, at_once=1, each=4, cameras=cameras, seed=seed)
    assert found.shape == draw(labels, at_once=1, each=4, seed=seed).shape
    chunks = found.flatten(0, 1)
    assert (labels[chunks] == labels[chunks[:, :1]]).all()
    for who in labels.unique():
        mine = chunks[labels[chunks[:, 0]] == who]
        if len(labels[labels == who]) < 4:
            continue
        used = cameras[mine.flatten()]
        for camera, many in zip(*used.unique(return_counts=True), strict=True):
            most = max(int((cameras[chunk] == camera).sum()) for chunk in mine)
            assert most <= -(-int(many) // len(mine))  # never more of one camera in a chunk than had to be
    assert torch.equal(draw(labels, at_once=1, each=4, cameras=cameras, seed=seed), found)
