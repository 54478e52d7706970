"""Every test starts from the same random state, on one thread; and what several files look at is made once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tests.support.tiny_comparisons import Finished


@pytest.fixture(autouse=True)
def _seeded_single_thread() -> None:
    torch.set_num_threads(1)  # small nets gain nothing from more
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def workers_find_these_tests() -> Iterator[None]:
    """Processes that a comparison starts can build the networks of the tests, from whatever folder pytest was called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, workers_find_these_tests: None) -> Finished:
    """A comparison that has ended; no test changes it."""
    from tests.support.tiny_comparisons import Finished  # not above: the tests of the core do without what it needs

    return Finished(tmp_path_factory.mktemp("comparison") / "tiny")
