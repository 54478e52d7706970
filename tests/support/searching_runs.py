"""Runs of a second that learn drawn figures and search for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from deepsup import datasets
from deepsup.settings import configs
from deepsup.settings.section import merge
from deepsup.settings.training import TrainConfig
from deepsup.training import runs

FIGURES = "drawn-figures(identities=24, cameras=2, images=2)"


def figure_net(num_classes: int) -> nn.Module:
    """Two stages, then what is searched with, 16 numbers."""
    net = nn.Sequential()
    for name, layer in {
        "conv1": nn.Conv2d(3, 8, 3, stride=2, padding=1),
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(8, 16, 3, stride=2, padding=1),
        "relu2": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(16, num_classes),
    }.items():
        net.add_module(name, layer)
    return net


def config(output: Path | str, **changes: Any) -> TrainConfig:
    tiny = {
        "name": "figures",
        "model": "tests.support.searching_runs:figure_net",
        "data": {"name": FIGURES, "batch_size": 16, "per_identity": 2},
        "supervise": {"method": "aux", "at": {"early": "relu1"}, "head": "pool", "weight": 0.3},
        "optimizer": {"name": "adam", "lr": 0.01},
        "epochs": 2,
        "engine": {"accelerator": "cpu", "threads": 1},
        "log": {"every": 2, "gradients": 0, "conflict": False},
        "output": str(output),
    }
    checked = configs.parse(merge(tiny, changes))
    assert isinstance(checked, TrainConfig)
    return checked


def trained(output: Path, **changes: Any) -> Path:
    """The folder of such a run."""
    runs.train(config(output, **changes))
    return output


def write_images(folder: Path, *, queries: bool, most: int = 12) -> list[Path]:
    """The first validation images of either side as files, whose names say who it is."""
    from PIL import Image

    split: Any = datasets.load(FIGURES).validation
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in range(len(split)) if bool(split.queries[row]) == queries][:most]
    paths = [folder / Path(split.names[row]).name for row in rows]
    for row, path in zip(rows, paths, strict=True):
        Image.fromarray(split.pixels(row).permute(1, 2, 0).contiguous().numpy()).save(path)
    return paths
