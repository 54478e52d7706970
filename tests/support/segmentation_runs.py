"""What tests of training share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

import deepsup as ds
from deepsup.cli import app
from deepsup.evaluation import evaluate as evaluations
from deepsup.training import runs


def matrices(found: evaluations.Evaluation) -> dict[str, Any]:
    return {name: counts.matrix.tolist() for name, counts in found.counts.items()}


def call(*words: str) -> str:
    """What the command prints; an error of ours is raised."""
    result = CliRunner().invoke(app.app, list(words), env={"COLUMNS": "140", "TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return np.array(image)


def supervised(folder: Path) -> ds.Supervised:
    net = ds.attach(runs.untouched_model(folder, trust=True), ds.Plan.load(folder / "plan.json")).eval()
    ds.load_weights(net.model, folder / "model.safetensors")
    ds.load_weights(net.heads, folder / "heads.safetensors")
    return net


def probabilities(net: ds.Supervised, x: Tensor, *, sigmoid: bool = False) -> dict[str, Tensor]:
    """Of every output at the size of the image, and their mean."""
    with torch.no_grad(), ds.supervising(net):
        outputs = net(x)
    found = {"main": outputs.main, **outputs.aux}
    found = {n: F.interpolate(s, x.shape[2:], mode="bilinear", align_corners=False) for n, s in found.items()}
    found = {n: s.sigmoid() if sigmoid else s.softmax(1) for n, s in found.items()}
    return {**found, "ensemble": torch.stack(list(found.values())).mean(0)}


VARIED = {"vary": {"supervise.weight": [0, 0.4]}, "seeds": [0]}


class Stopped(Exception):
    """A run that was cut off."""
