"""Label maps at another size: against slow loops, and never a label that was not there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepsup.errors import ClassCountError, ConfigError
from deepsup.losses import resizing

VOID = -100


def labels(*shape: int, classes: int = 4, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    found = torch.randint(0, classes, shape, generator=stream)
    return torch.where(torch.rand(shape, generator=stream) < 0.2, VOID, found)


def cells(old: int, new: int) -> list[list[int]]:
    """Which places lie in each of `new` cells, by their middles."""
    found: list[list[int]] = [[] for _ in range(new)]
    for place in range(old):
        found[int((place + 0.5) * new / old)].append(place)
    return found


@pytest.mark.parametrize(("old", "new"), [((9, 12), (3, 4)), ((7, 10), (3, 4)), ((5, 6), (5, 6)), ((473, 8), (60, 2))])
def test_nearest_takes_the_place_in_the_middle_of_each_cell(old: tuple[int, int], new: tuple[int, int]) -> None:
    y = labels(2, *old)
    found = resizing.shrink(y, new)
    for i in range(new[0]):
        for j in range(new[1]):
            row, column = int((i + 0.5) * old[0] / new[0]), int((j + 0.5) * old[1] / new[1])
            assert torch.equal(found[:, i, j], y[:, row, column])


def test_nearest_is_that_of_torch_called_exact() -> None:
    y = labels(2, 50, 37, classes=200)
    expected = torch.nn.functional.interpolate(y[:, None].double(), (13, 11), mode="nearest-exact")[:, 0].long()
    assert torch.equal(resizing.shrink(y, (13, 11)), expected)


@pytest.mark.parametrize("size", [(3, 4), (5, 5), (11, 13)])
def test_counts_are_those_of_a_slow_loop(size: tuple[int, int]) -> None:
    y = labels(2, 11, 13)
    found = resizing.class_counts(y, size, classes=4)
    expected = torch.zeros(2, 4, *size)
    for i, rows in enumerate(cells(11, size[0])):
        for j, columns in enumerate(cells(13, size[1])):
            for n in range(2):
                for place in y[n][rows][:, columns].flatten().tolist():
                    if place != VOID:
                        expected[n, place, i, j] += 1
    assert torch.equal(found, expected)
    assert found.sum() == (y != VOID).sum()


def test_area_gives_shares_of_the_places_that_count() -> None:
    y = torch.tensor([[[0, 1], [1, VOID]]])
    assert resizing.shrink(y, (1, 1), how="area", classes=2).flatten().tolist() == pytest.approx([1 / 3, 2 / 3])
    assert torch.equal(resizing.shrink(y * 0 + VOID, (1, 1), how="area", classes=2), torch.zeros(1, 2, 1, 1))


def test_class_preserving_keeps_what_is_rare_in_the_batch() -> None:
    y = torch.zeros(1, 8, 8, dtype=torch.long)
    y[0, 1] = 1  # a thin line, in no cell's middle
    y[0, 7, 7] = VOID
    y[0, 1, 0] = 2  # and something rarer still
    assert resizing.lost_classes(y, (2, 2)) == (1, 2)
    assert resizing.shrink(y, (2, 2), how="preserve", classes=3).tolist() == [[[2, 1], [0, 0]]]
    assert resizing.lost_classes(y, (2, 2), how="preserve") == ()
    assert resizing.lost_classes(y, (2, 2), how="area") == ()


@pytest.mark.parametrize("how", ["nearest", "preserve"])
def test_no_label_is_made_up(how: str) -> None:
    y = labels(3, 20, 30, classes=3) * 2  # 0, 2 and 4: a mean of two of them would be a class between
    y = torch.where(y == 2 * VOID, VOID, y)
    assert set(resizing.shrink(y, (6, 7), how=how, classes=5).unique().tolist()) <= {0, 2, 4, VOID}


def test_volumes_and_sequences_shrink_as_maps_do() -> None:
    y = labels(2, 8, 8, 8)
    assert resizing.shrink(y, (4, 4, 4), how="preserve", classes=4).shape == (2, 4, 4, 4)
    assert torch.equal(resizing.shrink(y, (4, 8, 8)), y[:, 1::2])
    assert resizing.class_counts(labels(2, 9), (3,), classes=4).sum() == (labels(2, 9) != VOID).sum()


def test_another_void_label() -> None:
    y = torch.tensor([[[0, 255], [255, 255]]])
    assert resizing.shrink(y, (1, 1), how="area", classes=2, ignore_index=255).flatten().tolist() == [1, 0]
    assert resizing.shrink(y * 0 + 255, (1, 1), how="preserve", classes=2, ignore_index=255).item() == 255


def test_what_cannot_be_is_said() -> None:
    y = labels(1, 4, 4)
    with pytest.raises(ConfigError, match=r"no target policy is called 'linear'. Choose: nearest, area, preserve."):
        resizing.shrink(y, (2, 2), how="linear")
    with pytest.raises(ConfigError, match="'area' needs classes="):
        resizing.shrink(y, (2, 2), how="area")
    with pytest.raises(ClassCountError, match=r"2 classes \(labels 0..1\), but the target holds labels 0..3"):
        resizing.shrink(y, (2, 2), how="area", classes=2)
