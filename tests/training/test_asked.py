"""What fit refuses before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepsup.errors import ConfigError
from deepsup.training.fit import fit
from tests.support.training_runs import CPU, blobs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.1}, "lr= is for an optimiser by name"),
        ({"metric": "accuracy"}, "metric= is what validation is scored by"),
        ({"batch_size": 4}, "batch_size= is for splits"),
        ({"epochs": True}, "epochs must be a whole number of at least 1; found True"),
        ({"patience": 1.5, "validation": blobs()}, "patience must be a whole number"),
        ({"step": {"acumulate": 2}}, "Closest: accumulate"),
        ({"mix": {"mixup": 0}}, "mixup"),
    ],
)
def test_what_would_change_nothing_or_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    net = nn.Linear(4, 3)
    before = net.weight.clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=message):
        fit(net, blobs(), optimizer=optimizer, engine=CPU, **options)
    assert torch.equal(net.weight, before)


def test_loggers_and_checkpoints_need_a_folder(tmp_path: Path) -> None:
    for options in ({"checkpoint": {"best": True}, "validation": blobs()}, {"checkpoint_every": 2}):
        with pytest.raises(ConfigError, match="needs a place for checkpoints"):
            fit(nn.Linear(4, 3), blobs(), engine=CPU, **options)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())
