"""Branches after the stages of a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepsup as ds
from deepsup.errors import LayerError


def test_a_model_without_stages_is_told_to_say_where() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(LayerError, match=r"has none: the activations on its way keep their size. Say where: at="):
        ds.plan(model, torch.randn(2, 12), method="byot")
