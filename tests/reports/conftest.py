"""Runs and comparisons that many tests read, and none writes into: made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepsup import reports
from tests.support.synthetic_journals import make_demo, make_many
from tests.support.synthetic_maps import make_ablation


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="session")
def page(demo: Path) -> str:
    return reports.render(demo)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_many(tmp_path_factory.mktemp("runs") / "many")


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ablation(tmp_path_factory.mktemp("runs") / "streets", seeds=2)


@pytest.fixture(scope="session")
def vessels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ablation(tmp_path_factory.mktemp("runs") / "vessels", seeds=1, binary=True)
