"""Images with labels or numbers in a CSV file: splits, what is served, what is said, and runs that learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepsup import datasets
from deepsup.datasets import AbsentClassWarning
from deepsup.errors import ConfigError, DatasetError
from deepsup.settings import configs, training
from deepsup.training import runs
from deepsup.training.journal import read
from tests.support.tiny_tables import settings, write_colours, write_table

EVAL: dict[str, Any] = {"seed": 0, "epoch": 0, "shuffle": False}
SUPERVISED = {"method": "aux", "at": ["relu1", "relu2"], "head": "pool", "weight": 0.3}


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    return write_colours(tmp_path / "colours", images=20)


@pytest.mark.parametrize("name", ["values", "labels"])
def test_a_fifth_is_held_out_whatever_the_order_of_the_rows(colours: Path, name: str) -> None:
    data = datasets.load(name, root=colours, size=16)
    assert str(data) == f"{name}: 16 training and 4 validation images, 3x16x16, 2 {name}"
    assert (data.task, data.class_names) == (name, ("red", "rest"))
    file = colours / f"{name}.csv"
    head, *rows = file.read_text().splitlines()
    file.write_text("\n".join([head, *reversed(rows)]))
    again = datasets.load(name, root=colours, size=16, seed=5)
    for one, other in ((data.train, again.train), (data.validation, again.validation)):
        assert sorted(one.paths) == sorted(other.paths)  # type: ignore[attr-defined]
    assert len(datasets.load(f"{name}(held_out=0.5)", root=colours).validation) == 10


def test_every_image_comes_with_its_own_numbers(colours: Path) -> None:
    split = datasets.load("values", root=colours, size=8, augment="flips").train
    seen = 0
    for x, y in split.batches(5, seed=3, epoch=2, shuffle=True):
        assert y.dtype == torch.float32
        mean, std = (value.view(1, 3, 1, 1) for value in (split.mean, split.std))  # type: ignore[attr-defined]
        pixels = (x * std + mean).mean((2, 3))
        known = ~y.isnan()
        torch.testing.assert_close(pixels[:, :2][known], y[known], atol=0.003, rtol=0)
        seen += len(y)
    assert seen == 16


def test_the_split_column_decides(tmp_path: Path) -> None:
    lines = ["image,age,split", "0.png,1,val", "1.png,2,train", "2.png,3,test", "3.png,4,train"]
    write_table(tmp_path, "values", lines, images=6)
    data = datasets.load("values", root=tmp_path)
    assert data.train.labels.tolist() == [[2.0], [4.0]]  # type: ignore[attr-defined]
    assert data.validation.labels.tolist() == [[1.0]]  # type: ignore[attr-defined]
    assert "not read: 1 test image, 2 image without a row" in data.found.lines


def test_found_says_shares_and_ranges(tmp_path: Path) -> None:
    lines = [
        "image,age,x,split",
        "0.png,40,0.5,train",
        "1.png,60,,train",
        "4.png,50,1.5,train",
        "2.png,3,1,val",
        "3.png,3,2,val",
    ]
    write_table(tmp_path, "values", lines, images=5)
    found = datasets.load("values", root=tmp_path).found
    assert found.lines[0].endswith(
        "; age 40 to 60 (mean 50), x 0.5 to 1.5 (mean 1); 16.7 % of the values are not known"
    )
    assert any("'age' is 50 ± 8.16 in training" in line for line in found.lines)
    assert found.to_dict()["training"]["numbers"]["age"] == (40.0, 50.0, 60.0)
    write_table(
        tmp_path, "labels", ["image,a,b,split", *(f"{n}.png,{n % 2},1,{'train' if n < 2 else 'val'}" for n in range(4))]
    )
    said = datasets.load("labels", root=tmp_path).found.lines
    assert said[0].endswith("; 50 % a, 100 % b")
    assert "note: 'b' in every training image that says so" in said


def _split(*rows: str) -> list[str]:
    return [*rows, "3.png,1,1,val", "4.png,0,1,val"]


def test_columns_of_which_nothing_can_be_learned(tmp_path: Path) -> None:
    write_table(tmp_path, "values", _split("image,a,b,split", "0.png,1,,train", "1.png,2,,train"), images=5)
    with pytest.raises(DatasetError, match=r"'b' is empty in all 2 training rows\. Fill it"):
        datasets.load("values", root=tmp_path)
    write_table(tmp_path, "labels", _split("image,a,b,split", "0.png,0,0,train", "1.png,0,0,train"), images=5)
    with pytest.raises(DatasetError, match="no label occurs in the 2 training rows"):
        datasets.load("labels", root=tmp_path)
    write_table(tmp_path, "labels", _split("image,a,b,split", "0.png,1,0,train", "1.png,0,0,train"), images=5)
    with pytest.warns(AbsentClassWarning, match="'b' in no training row"):
        datasets.load("labels", root=tmp_path)
    write_table(tmp_path, "values", _split("image,a,b,split", "0.png,1,7,train", "1.png,2,7,train"), images=5)
    with pytest.warns(AbsentClassWarning, match="'b' is 7 in every training row"):
        datasets.load("values", root=tmp_path)
    write_table(tmp_path, "values", ["image,a,split", "0.png,1,train", "1.png,,val", "2.png,2,train"])
    with pytest.raises(DatasetError, match="'a' is empty in all 1 validation rows"):
        datasets.load("values", root=tmp_path)


def test_splits_of_nothing(tmp_path: Path) -> None:
    write_table(tmp_path, "values", ["image,a", "0.png,1"])
    with pytest.raises(DatasetError, match="has one row"):
        datasets.load("values", root=tmp_path)
    write_table(tmp_path, "values", ["image,a,split", "0.png,1,val"])
    with pytest.raises(DatasetError, match="has no row whose split is train"):
        datasets.load("values", root=tmp_path)
    with pytest.raises(DatasetError, match=r"'labels' needs root=\.\.\., a folder with images and labels.csv"):
        datasets.load("labels")


@pytest.mark.parametrize("name", ["values", "labels"])
@pytest.mark.parametrize(
    "given",
    [
        {"crop": 8},
        {"patches": 2},
        {"prepare": "vessels"},
        {"views": 2},
        {"classes": 2},
        {"download": True},
        {"size": (8, 9)},
    ],
)
def test_what_does_not_fit_is_refused_by_name(colours: Path, name: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(given))}.*{name}"):
        datasets.load(name, root=colours, **given)


@pytest.mark.parametrize("augment", ["standard", "contrastive", "cutout(length=4)", "reflect"])
def test_augmentation_that_cuts_is_refused_with_its_reason(colours: Path, augment: str) -> None:
    with pytest.raises(ConfigError, match=r"shows parts of images, and what values says .* It has none, flips"):
        datasets.load("values", root=colours, augment=augment)
    with pytest.raises(ConfigError, match="Augmentations: none, flips"):
        datasets.load("values", root=colours, augment="flip")


@pytest.mark.parametrize("supervise", [None, SUPERVISED], ids=["plain", "aux"])
@pytest.mark.parametrize(("name", "metric"), [("values", "R²"), ("labels", "mAP")])
def test_a_run_learns(tmp_path: Path, name: str, metric: str, supervise: Any) -> None:
    root = write_colours(tmp_path / "colours")
    config = configs.parse(settings(root, name, tmp_path / "run", supervise=supervise))
    assert isinstance(config, training.TrainConfig)
    end = runs.train(config)
    assert end.score is not None
    assert end.score > (0.3 if name == "values" else 0.9)
    start, *_ = read(tmp_path / "run" / "journal.jsonl", "start")
    assert start["metric"] == metric
    if supervise:
        assert {branch["loss"] for branch in start["plan"]["branches"]} == {"mse" if name == "values" else "binary"}
