"""Optimisers hold what there is to train."""

from __future__ import annotations

import pytest
import torch

import deepsup as ds
from deepsup.errors import ConfigError
from tests.support.tiny_runs import dropout_net
from tests.support.training_runs import some_batches


def test_an_optimiser_made_before_attach_is_refused():
    torch.manual_seed(0)
    model = dropout_net(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    net = ds.attach(model, ds.plan(model, torch.randn(2, 1, 16, 16), at=["relu1"]))
    with pytest.raises(ConfigError, match=r"does not hold 2 parameters of the heads .* Make it after attach"):
        ds.fit(net, some_batches, optimizer=optimizer)
