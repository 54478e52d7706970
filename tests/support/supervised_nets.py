"""A small net with its branches on."""

from __future__ import annotations

from typing import Any

from torch import nn

import deepsup as ds
from tests.support.small_nets import Plain, images

AT = ["conv1", "relu2"]


def supervised(model: nn.Module | None = None, at: Any = AT, **options: Any) -> ds.Supervised:
    model = Plain() if model is None else model
    return ds.attach(model, ds.plan(model, images(), at, **options))
