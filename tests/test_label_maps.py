"""Label maps as pictures, pixel by pixel."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepsup import label_maps
from deepsup.errors import ClassCountError, ConfigError, DatasetError, MissingPackageError

TWO = ((0, 0, 0), (255, 255, 255))
THREE = ((10, 20, 30), (200, 100, 0), (0, 0, 250))


def image(*pixels: tuple[int, int, int]) -> Any:
    """One row of pixels as an image (1, W, 3)."""
    return np.array([pixels], dtype=np.uint8)


def labels(*values: int, dtype: Any = np.int64) -> Any:
    return np.array([values], dtype=dtype)


def row(picture: Any) -> list[tuple[int, ...]]:
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 1
    return [tuple(map(int, pixel)) for pixel in picture[0]]


def test_every_class_has_its_colour_and_what_does_not_count_is_black() -> None:
    assert row(label_maps.coloured(labels(2, 0, 255, 1, -100), THREE)) == [
        THREE[2],
        THREE[0],
        (0, 0, 0),
        THREE[1],
        (0, 0, 0),
    ]
    assert row(label_maps.coloured(labels(1, 7, dtype=np.uint8), THREE, ignore=7)) == [THREE[1], (0, 0, 0)]
    assert row(label_maps.coloured(labels(255, 255, dtype=np.uint8), THREE)) == [(0, 0, 0)] * 2


def test_a_label_without_a_colour_is_an_error_that_says_which() -> None:
    with pytest.raises(ClassCountError, match=r"label 3 was found, and the palette has 3 colours.*palette\(4\)"):
        label_maps.coloured(labels(0, 3), THREE)


def test_an_overlay_mixes_image_and_colour_and_leaves_void_alone() -> None:
    ground = image((100, 100, 100), (40, 80, 120), (7, 8, 9))
    mixed = label_maps.overlay(ground, labels(1, 2, 255), THREE, alpha=0.25)
    assert row(mixed) == [(125, 100, 75), (30, 60, 152), (7, 8, 9)]  # 152.5 rounds to even
    assert row(label_maps.overlay(ground, labels(1, 2, 255), THREE, alpha=0)) == row(ground)
    assert row(label_maps.overlay(ground, labels(1, 2, 0), THREE, alpha=1)) == [THREE[1], THREE[2], THREE[0]]
    assert row(ground) == [(100, 100, 100), (40, 80, 120), (7, 8, 9)]


def test_two_classes_show_what_was_found_missed_and_falsely_found() -> None:
    ground = image(*[(200, 100, 50)] * 5)
    drawn = row(label_maps.error_map(labels(1, 0, 1, 0, 1), labels(1, 1, 0, 0, 255), ground))
    grey = round(0.4 * (0.299 * 200 + 0.587 * 100 + 0.114 * 50))
    legend = label_maps.LEGEND
    assert drawn == [legend["true"], legend["missed"], legend["false"], (grey,) * 3, legend["does not count"]]
    assert len({legend[name] for name in ("true", "missed", "false", "does not count")}) == 4


def test_more_classes_show_what_is_wrong() -> None:
    ground = image(*[(100, 100, 100)] * 4)
    drawn = row(label_maps.error_map(labels(2, 1, 0, 2), labels(2, 2, 0, -100), ground))
    assert drawn == [(40, 40, 40), label_maps.LEGEND["wrong"], (40, 40, 40), (0, 0, 0)]
    same = row(label_maps.error_map(labels(1, 1), labels(1, 0), ground[:, :2], classes=3))  # no third class in this one
    assert same == [(40, 40, 40), label_maps.LEGEND["wrong"]]


def test_a_prediction_where_nothing_counts_does_not_decide_how_many_classes_there_are() -> None:
    drawn = row(label_maps.error_map(labels(9, 1), labels(255, 1), image((0, 0, 0), (0, 0, 0))))
    assert drawn == [(0, 0, 0), label_maps.LEGEND["true"]]


def test_stripes_lie_where_the_truth_does_not_count_and_nowhere_else() -> None:
    ground = image(*[(9, 9, 9)] * 6)
    drawn = row(label_maps.hatched(ground, labels(255, -100, 0, 1, 255, 7)))
    assert drawn == [label_maps.HATCH[0], label_maps.HATCH[1], (9, 9, 9), (9, 9, 9), label_maps.HATCH[0], (9, 9, 9)]
    assert row(label_maps.hatched(ground, labels(0, 0, 0, 0, 0, 7), ignore=7))[4:] == [(9, 9, 9), label_maps.HATCH[1]]
    large = label_maps.hatched(np.zeros((240, 240, 3), np.uint8), np.full((240, 240), 255))
    assert [int((large[0] == 96).all(1)[a : a + 4].sum()) for a in (0, 4, 8, 12)] == [0, 4, 0, 4]
    assert row(ground) == [(9, 9, 9)] * 6


def test_error_maps_leave_their_inputs_alone() -> None:
    ground, said, truth = image((9, 9, 9), (9, 9, 9)), labels(1, 0), labels(1, 1)
    label_maps.error_map(said, truth, ground)
    assert (row(ground), said.tolist(), truth.tolist()) == ([(9, 9, 9)] * 2, [[1, 0]], [[1, 1]])


def test_the_colours_of_errors_stay_apart_without_their_hue() -> None:
    luma = sorted(0.299 * r + 0.587 * g + 0.114 * b for r, g, b in {*label_maps.LEGEND.values(), (102, 102, 102)})
    assert min(b - a for a, b in itertools.pairwise(luma)) > 10
    assert label_maps.dimmed(image((255, 255, 255))).max() == 102  # the lightest ground is darker than every error


@pytest.mark.parametrize("n", [1, 2, 8, 9, 21, 150, 255])
def test_a_palette_is_stable_and_no_colour_comes_twice(n: int) -> None:
    colours = label_maps.palette(n)
    assert len(set(colours)) == len(colours) == n
    assert colours == label_maps.palette(255)[:n]
    assert label_maps.VOID not in colours
    assert all(isinstance(part, int) and 0 <= part <= 255 for colour in colours for part in colour)


def test_a_palette_keeps_its_colours_from_version_to_version() -> None:
    assert label_maps.palette(11)[7:] == ((128, 128, 128), (160, 34, 34), (95, 132, 221), (210, 237, 171))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: label_maps.overlay(image((0, 0, 0)), labels(0), TWO, alpha=1.5), "alpha=1.5. Give a number from 0"),
        (
            lambda: label_maps.overlay(image((0, 0, 0)), labels(0, 1), TWO),
            r"1 x 2 pixels .* shape \(1, 2, 3\), found uint8",
        ),
        (lambda: label_maps.overlay(image((0, 0, 0)) / 255, labels(0), TWO), "found float64 of shape"),
        (lambda: label_maps.coloured(np.zeros((1, 2, 2), dtype=int), TWO), r"shape \(1, 2, 2\). Draw one map"),
        (lambda: label_maps.coloured(np.zeros((2, 2)), TWO), "whole numbers .* found float64"),
        (
            lambda: label_maps.error_map(labels(0, 1), labels(0), image((0, 0, 0))),
            "prediction is 1 x 2 and the truth 1 x 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_found(call: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        call()


def test_pictures_and_labels_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    drawn = label_maps.coloured(labels(2, 255), THREE)
    assert row(label_maps.read_picture(label_maps.write_picture(tmp_path / "new/a.png", drawn))) == row(drawn)
    file = label_maps.write_picture(tmp_path / "b.png", labels(3, 255, dtype=np.uint8))
    assert label_maps.read_labels(file).tolist() == [[3, 255]]
    Image.open(file).convert("P").save(tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as indexed:
        assert indexed.mode == "P"


def test_a_picture_that_is_missing_damaged_or_no_label_map_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no picture .*gone\.png"):
        label_maps.read_labels(tmp_path / "gone.png")
    torn = label_maps.write_picture(tmp_path / "torn.png", np.zeros((64, 64, 3), dtype=np.uint8))
    torn.write_bytes(torn.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"torn\.png cannot be read as a picture"):
        label_maps.read_picture(torn)
    with pytest.raises(DatasetError, match="mode RGB, and a label map has one number"):
        label_maps.read_labels(label_maps.write_picture(tmp_path / "rgb.png", np.zeros((2, 2, 3), dtype=np.uint8)))


@pytest.mark.parametrize("missing", ["numpy", "PIL"])
def test_a_missing_package_is_named_with_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = importlib.import_module
    ground = image((0, 0, 0))
    file = label_maps.write_picture(tmp_path / "a.png", ground)

    def hiding(name: str, package: str | None = None) -> Any:
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", hiding)
    with pytest.raises(MissingPackageError, match=r'pip install "deepsup\[report\]"') as error:
        label_maps.read_picture(file)
    assert {"numpy": "numpy", "PIL": "pillow"}[missing] in str(error.value)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_a_picture_is_its_bytes_too(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    (tmp_path / "a").write_bytes(label_maps.png(picture))
    with Image.open(tmp_path / "a") as read:
        assert np.array_equal(np.array(read), picture)
