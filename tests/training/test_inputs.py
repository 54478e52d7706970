"""How a run prepares its images: written beside it, and enough to read a new image as validation would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deepsup import datasets
from deepsup.datasets import IdentitySplit
from deepsup.errors import ConfigError, DatasetError
from deepsup.label_maps import write_picture
from deepsup.settings.data import DataConfig
from deepsup.training.inputs import FILE, Inputs
from tests.support.drawn_images import write
from tests.support.tiny_layouts import write_pairs


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    data = datasets.load("digits", limit=64)
    inputs = Inputs.of(data)
    inputs.save(tmp_path)
    assert Inputs.load(tmp_path) == inputs
    assert json.loads((tmp_path / FILE).read_text())["task"] == "classification"
    assert inputs.classes == tuple(data.class_names)


def test_a_new_image_is_prepared_like_those_of_validation(tmp_path: Path) -> None:
    data = datasets.load("digits", limit=64)
    inputs = Inputs.of(data)
    x, _ = next(data.validation.batches(1, shuffle=False, epoch=0, seed=0))
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (inputs.mean, inputs.std))
    grey = ((x[0] * std + mean).clamp(0, 1) * 255).round().byte()
    write_picture(tmp_path / "one.png", np.repeat(grey.permute(1, 2, 0).numpy(), 3, axis=2))
    read, original = inputs.read(tmp_path / "one.png", DataConfig(name="digits"))
    assert read.shape == (1, *x.shape[1:])
    assert torch.allclose(read[0], x[0], atol=0.05)
    assert tuple(original.shape[:2]) == tuple(x.shape[2:])


def test_a_folder_without_them_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=FILE):
        Inputs.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("task", "os:system"), ("classes", "abc"), ("palette", [[0, 0, 300]]), ("palette", 3), ("channels", 0), ("size", True),
     ("size", 10**9), ("mean", ["a"]), ("std", None), ("taks", "classification")],
)  # fmt: skip
def test_what_cannot_be_is_named(tmp_path: Path, key: str, value: object) -> None:
    Inputs.of(datasets.load("digits", limit=64)).save(tmp_path)
    told = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(told | {key: value}))
    with pytest.raises(ConfigError, match=rf"{FILE} is damaged \(.*{key}"):
        Inputs.load(tmp_path)


def test_new_images_are_turned_and_read_by_the_range_of_the_data_set(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs")
    for path in root.glob("*/images/*.png"):
        write(path, np.full((24, 32), 3000, np.uint16))
    inputs = Inputs.of(datasets.load("pairs", root=root))
    assert inputs.ranges == (4095, None)
    inputs.save(tmp_path)
    inputs = Inputs.load(tmp_path)
    path = write(tmp_path / "new.png", np.array([[0, 4095, 2048]], np.uint16), orientation=6)
    read, original = inputs.read(path, DataConfig(name="pairs"))
    assert original[..., 0].tolist() == [[0], [255], [128]]
    assert read.shape == (1, 3, 3, 1)
    with pytest.raises(DatasetError, match=r"new\.png holds values from 0 to 5000, outside of 0 to 4095"):
        inputs.read(write(path, np.array([[0, 5000]], np.uint16)), DataConfig(name="pairs"))


def test_inputs_of_before_there_were_ranges_know_8_bits_alone(tmp_path: Path) -> None:
    Inputs.of(datasets.load("digits", limit=64)).save(tmp_path)
    told = json.loads((tmp_path / FILE).read_text())
    del told["ranges"]
    (tmp_path / FILE).write_text(json.dumps(told))
    path = write(tmp_path / "new.png", np.array([[0, 5000]], np.uint16))
    with pytest.raises(DatasetError, match=r"new\.png has whole numbers of more than 8 bits"):
        Inputs.load(tmp_path).read(path, DataConfig(name="digits"))


def test_images_of_identities_are_resized_whole_to_height_and_width(tmp_path: Path) -> None:
    data = datasets.load("drawn-figures(identities=8, cameras=2, images=2)", size=[32, 24])
    assert isinstance(data.validation, IdentitySplit)
    Inputs.of(data).save(tmp_path)
    inputs = Inputs.load(tmp_path)
    assert (inputs.size, inputs.classes) == ((32, 24), data.class_names)
    write_picture(tmp_path / "one.png", np.asarray(data.validation.picture(5)))
    x, original = inputs.read(tmp_path / "one.png", DataConfig(name="drawn-figures"))
    served = list(data.validation.batches(1, shuffle=False, epoch=0, seed=0))[5][0]
    assert original.shape == (64, 32, 3)
    assert torch.equal(x, served)


@pytest.mark.parametrize("size", [[32], [32, 24, 3], [0, 4], [32, True], ["32", 24]])
def test_two_sides_are_two(tmp_path: Path, size: object) -> None:
    Inputs.of(datasets.load("digits", limit=64)).save(tmp_path)
    told = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(told | {"size": size}))
    with pytest.raises(ConfigError, match=r"needs to be a whole number from 1 to 32768, or two"):
        Inputs.load(tmp_path)
