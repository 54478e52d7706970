"""A data set is a function, registered with its task where it is written; here a toy one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import pytest
import torch

from deepsup import datasets
from deepsup.datasets import ArraySplit, Dataset, layouts
from deepsup.datasets.request import Request
from deepsup.errors import ConfigError
from deepsup.settings.data import DataConfig
from deepsup.specs import at_least
from tests.support.registering import registered


def toy_stripes(request: Request, *, stripes: Annotated[int, at_least(1)] = 2) -> Dataset:
    images = torch.arange(4 * 64, dtype=torch.float32).view(4, 1, 8, 8) % stripes
    split = ArraySplit(images, torch.arange(4) % 2, class_names=["even", "odd"])
    return Dataset(request.name, split, split)


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    layouts.layout("classification")(toy_stripes)
    with registered(layouts.LAYOUTS, toy_stripes):
        yield


def test_a_registered_function_is_loaded_by_name_with_options() -> None:
    found = datasets.load("toy-stripes(stripes=3)")
    assert (found.name, len(found.train), found.class_names) == ("toy-stripes(stripes=3)", 4, ("even", "odd"))
    assert found.train.images.max() == 2  # type: ignore[attr-defined]
    assert "toy-stripes" in datasets.names()


def test_its_options_are_held_against_their_limits() -> None:
    with pytest.raises(ConfigError, match="'toy-stripes' needs stripes to be a number of at least 1; found 0"):
        datasets.load("toy-stripes(stripes=0)")
    with pytest.raises(ConfigError, match=r"has no option 'dots'\. Options: stripes"):
        datasets.load("toy-stripes(dots=1)")


def test_its_registration_says_its_task() -> None:
    assert DataConfig(name="toy-stripes(stripes=3)").task == "classification"
    assert layouts.task_of("pairs(void=0)") == DataConfig(name="pairs(void=0)").task == "segmentation"
    with pytest.raises(ConfigError, match=r"crop: not for toy-stripes.*camvid, drive, ade20k, cityscapes, pairs"):
        datasets.load("toy-stripes", crop=8)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="two are registered as dataset 'digits'"):

        @layouts.layout("classification")
        def digits(request: Request) -> Dataset:
            raise NotImplementedError
