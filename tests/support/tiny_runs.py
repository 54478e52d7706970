"""Training runs that take a second: digits, a handful of batches, nets of a few thousand weights.

`python -m tests.support.tiny_runs SETTINGS` trains one in a process of its own, with the settings as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torch import nn

from deepsup.settings import configs
from deepsup.settings.section import merge
from deepsup.settings.training import TrainConfig
from deepsup.training import runs

SUPERVISED = {"method": "aux", "at": ["relu1", "relu2"], "head": "cnds(width=4, hidden=8)", "weight": "linear(0.5, 0)"}


def dropout_net(num_classes: int, in_channels: int) -> nn.Module:
    """Draws from the random stream in training, keeps running statistics, and has a tap in front of both."""
    net = nn.Sequential()
    for name, layer in {
        "conv1": nn.Conv2d(in_channels, 4, 3, stride=2, padding=1),
        "norm1": nn.BatchNorm2d(4),
        "relu1": nn.ReLU(),
        "drop1": nn.Dropout(0.2),
        "conv2": nn.Conv2d(4, 8, 3, stride=2, padding=1),
        "relu2": nn.ReLU(),
        "drop2": nn.Dropout(0.2),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(128, num_classes),
    }.items():
        net.add_module(name, layer)
    return net


def settings(output: Path | str, **changes: Any) -> dict[str, Any]:
    """The settings of a tiny run with some of them changed; nested ones are merged."""
    tiny = {
        "name": "tiny",
        "model": "tests.support.tiny_runs:dropout_net",
        "data": {"name": "digits", "batch_size": 16, "limit": 160},
        "supervise": SUPERVISED,
        "optimizer": {"name": "adam", "lr": 0.01},
        "epochs": 2,
        "engine": {"accelerator": "cpu", "threads": 1},
        "log": {"every": 4, "gradients": 3},
        "output": str(output),
    }
    return merge(tiny, changes)


def config(output: Path | str, **changes: Any) -> TrainConfig:
    """The same, checked."""
    checked = configs.parse(settings(output, **changes))
    assert isinstance(checked, TrainConfig)
    return checked


if __name__ == "__main__":
    checked = configs.parse(json.loads(sys.argv[1]))
    assert isinstance(checked, TrainConfig)
    runs.train(checked)
