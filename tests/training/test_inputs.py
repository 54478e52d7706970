"""How a run prepares its images: written beside it, and enough to read a new image as validation would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deepsup import datasets
from deepsup.errors import ConfigError
from deepsup.label_maps import write_picture
from deepsup.settings.data import DataConfig
from deepsup.training.inputs import FILE, Inputs


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
