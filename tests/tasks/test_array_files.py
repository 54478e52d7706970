"""Arrays by name: which are read, which must be there, and that nothing in a file is run (more in test_search_files.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepsup.errors import DatasetError
from deepsup.tasks.array_files import Wanted

WANTED = Wanted(("inputs", "labels"), ("inputs",), "tokens", "inputs")


def test_what_is_wanted_is_read_and_the_rest_left_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.arange(3, dtype=np.uint16), other=np.ones(2))
    found = WANTED.read(tmp_path / "a.npz")
    assert {name: value.tolist() for name, value in found.items()} == {"inputs": [0, 1, 2]}


def test_what_is_needed_or_misspelt_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", label=np.arange(3), inputs=np.arange(3))
    with pytest.raises(
        DatasetError, match=r"has no array 'labels'\. Closest: label\. There are: inputs, label\. It needs inputs\."
    ):
        WANTED.read(tmp_path / "a.npz")
    with pytest.raises(DatasetError, match=r"there is no file .* to read tokens from"):
        WANTED.read(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", inputs=np.array([{}], dtype=object))
    with pytest.raises(DatasetError, match="Object arrays cannot be loaded"):
        WANTED.read(tmp_path / "c.npz")
