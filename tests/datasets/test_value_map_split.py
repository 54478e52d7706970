"""Images and their maps in batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deepsup.datasets.pairs import Pair
from deepsup.datasets.value_map_split import ValueMapSplit
from deepsup.datasets.value_maps import MapReader
from deepsup.errors import DatasetError
from tests.support.published_images import equal, forks
from tests.support.tiny_tables import draw, write_maps


def pairs(root: Path) -> list[Pair]:
    stems = sorted(path.stem for path in (root / "train" / "images").iterdir())
    return [Pair(s, root / "train" / "images" / f"{s}.png", root / "train" / "maps" / f"{s}.npy") for s in stems]


def test_images_and_maps_are_mirrored_together_and_half_of_them(tmp_path: Path) -> None:
    split = ValueMapSplit(pairs(write_maps(tmp_path)), MapReader(), augment="flips")
    mirrored = 0
    for x, y in split.batches(5, seed=0, epoch=1, shuffle=True):
        red = x[:, 0] * split.std[0] + split.mean[0]
        known = ~y[:, 0].isnan()
        torch.testing.assert_close(red[known], y[:, 0][known], atol=0.003, rtol=0)
        mirrored += int(y[:, 0, 0, -1].isnan().sum())
    assert 5 < mirrored < 19


@forks
@pytest.mark.parametrize("options", [{"workers": 1}, {"memory": 0}, {"workers": 1, "memory": 0}])
def test_neither_workers_nor_memory_change_a_batch(tmp_path: Path, options: dict[str, int]) -> None:
    found = pairs(write_maps(tmp_path, train=6))
    splits = [ValueMapSplit(found, MapReader((8, 12)), augment="flips", **more) for more in ({}, options)]
    one, other = ([(x, y.nan_to_num(9)) for x, y in s.batches(4, seed=2, epoch=0, shuffle=True)] for s in splits)
    assert equal(iter(one), iter(other))


def test_what_counts_by_channel(tmp_path: Path) -> None:
    split = ValueMapSplit(pairs(write_maps(tmp_path, train=3, channels=2)), MapReader())
    every = np.concatenate([np.load(pair.mask).reshape(2, -1) for pair in pairs(tmp_path)], 1)
    assert split.class_names == ("value 1", "value 2")
    assert split.known.tolist() == (~np.isnan(every)).sum(1).tolist()
    assert split.mean_value.tolist() == pytest.approx(np.nanmean(every, 1).tolist())
    assert split.low.tolist() == pytest.approx(np.nanmin(every, 1).tolist())


def test_maps_of_several_kinds_or_sizes_are_refused(tmp_path: Path) -> None:
    found = pairs(write_maps(tmp_path, train=2))
    draw(tmp_path / "other.png", shape=(8, 8))
    np.save(tmp_path / "other.npy", np.zeros((8, 8)))
    other = Pair("other", tmp_path / "other.png", tmp_path / "other.npy")
    with pytest.raises(DatasetError, match=r"other.npy has 1 channels of 8x8, and .*0.npy 1 of 16x24.*set a size"):
        ValueMapSplit([*found, other], MapReader())
    assert len(ValueMapSplit([*found, other], MapReader((8, 8)))) == 3
    np.save(tmp_path / "other.npy", np.zeros((2, 8, 8)))
    with pytest.raises(DatasetError, match=r"other.npy has 2 channels"):
        ValueMapSplit([*found, other], MapReader((8, 8)))
