"""Fixtures of the tests of this room."""

from __future__ import annotations

import pytest

from deepsup import datasets


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return datasets.load("digits", limit=96)
