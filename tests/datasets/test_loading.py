"""Tests of loading."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from deepsup import datasets
from deepsup.errors import ConfigError, DatasetError, MissingPackageError


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("cifar-10", {}, DatasetError, "Closest: cifar10.*Known: digits, mnist, fashion-mnist"),
        ("digits", {"size": 7}, DatasetError, "size=7 is too small for digits"),
        ("digits", {"limit": 0}, DatasetError, "limit=0 would leave no training image"),
        ("digits", {"classes": 1}, DatasetError, "classes=1 would leave nothing to tell apart"),
        ("digits", {"augment": "standart"}, ConfigError, "no augmentation is called 'standart'. Closest: standard"),
        ("digits", {"augment": "cutout"}, ConfigError, "squares of 16 pixels from images of 16.*length, such as 8"),
        ("folder", {"augment": "reflect"}, ConfigError, "is called 'reflect'.*: none, standard, contrastive"),
        ("digits", {"workers": -1}, ConfigError, "workers=-1"),
        ("digits", {"per_identity": 4}, ConfigError, "per_identity, spread: not for digits"),
        ("drawn-figures", {"per_identity": -1}, ConfigError, "per_identity=-1 must be 0"),
        ("drawn-figures", {"augment": "reflect"}, ConfigError, "is called 'reflect'.*: none, flips, standard, erasing"),
        ("drawn-figures", {"crop": 8}, ConfigError, "crop: not for drawn-figures, whose images have an identity each"),
        ("drawn-figures", {"size": [4, 9]}, DatasetError, "too small for drawn-figures"),
        ("drawn-figures(cameras=1)", {}, ConfigError, "needs cameras to be a whole number of at least 2"),
    ],
)
def test_bad_requests_say_what_to_do(
    name: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        datasets.load(name, **arguments)


@pytest.mark.parametrize(
    ("name", "package", "label"),
    [
        ("digits", "sklearn", "scikit-learn"),
        ("cifar10", "torchvision", "torchvision"),
        ("mnist", "torchvision", "torchvision"),
        ("svhn", "scipy", "scipy"),
        ("folder", "torchvision", "torchvision"),
    ],
)
def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, label: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf'{label}, which is not installed.*pip install "deepsup\[train\]"'):
        datasets.load(name)


@pytest.mark.parametrize("name", [{}, None, 3, ["digits"]])
def test_what_is_no_name_is_no_dataset(name: object) -> None:
    with pytest.raises(DatasetError, match="no dataset is called"):
        datasets.load(name)  # type: ignore[arg-type]
