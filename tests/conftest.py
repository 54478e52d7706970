"""Every test starts from the same random state, on one thread: small nets gain nothing from more."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded_single_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
