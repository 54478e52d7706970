"""Fixtures of the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepsup import datasets
from deepsup.training import runs
from tests.support.tiny_shapes import config, write_shapes


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return datasets.load("digits", limit=96)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("two"), classes=2)


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three classes and one branch."""
    folder = tmp_path_factory.mktemp("runs") / "maps"
    runs.train(config(shapes, folder))
    return folder


@pytest.fixture(scope="module")
def vessels(two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two classes through a sigmoid, judged by the area under the ROC curve."""
    folder = tmp_path_factory.mktemp("runs") / "vessels"
    runs.train(config(two, folder, loss="binary", metric="ROC-AUC"))
    return folder
