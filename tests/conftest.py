"""Every test starts from the same random state, on one thread; and what several files look at is made once."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.support.warm_python import WarmPython

if TYPE_CHECKING:
    from tests.support.tiny_comparisons import Finished


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Neighbours stay in one process, which has made what they look at; the process that is done first takes over work."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays to the end: the garbage collector need not walk it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_unconfigure() -> None:
    """Libraries that count what is left of them find nothing."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _seeded_single_thread() -> None:
    torch.set_num_threads(1)  # small nets gain nothing from more
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmPython]:
    """Starts processes without their imports; made where it is asked for first."""
    python = WarmPython()
    yield python
    python.close()


@pytest.fixture(scope="session")
def workers_find_these_tests() -> Iterator[None]:
    """Processes that a comparison starts can build the networks of the tests, from whatever folder pytest was called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        yield


@pytest.fixture
def warm_workers(warm: WarmPython, workers_find_these_tests: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of comparisons are started warm."""
    monkeypatch.setattr("deepsup.comparisons.compare.subprocess", warm.instead_of_subprocess())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, warm: WarmPython, workers_find_these_tests: None) -> Finished:
    """A comparison that has ended; no test changes it."""
    from tests.support.tiny_comparisons import Finished  # not above: the tests of the core do without what it needs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepsup.comparisons.compare.subprocess", warm.instead_of_subprocess())
        patch.setattr("deepsup.comparisons.results.TIMING_SECONDS", 0.05)
        return Finished(tmp_path_factory.mktemp("comparison") / "tiny")
