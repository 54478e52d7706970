"""Every recipe says how to run it and what to expect, and can be planned as it stands."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import nn

import deepsup as ds
from deepsup import losses, methods, networks, schedules
from deepsup.settings import configs, training

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SHAPES = {
    "mnist": (10, 1, 28),
    "cifar10": (10, 3, 32),
    "cifar100": (100, 3, 32),
    "svhn": (10, 3, 32),
    "folder": (1000, 3, 224),
    "ade20k": (150, 3, 97),
    "camvid": (11, 3, 97),
    "drive": (2, 1, 48),
    "market1501": (751, 3, 128),
    "dukemtmc": (702, 3, 128),
    "msmt17": (1041, 3, 128),
}
# Published parameter counts while training, in millions (facts of DHM's tables).
TRAINING = {"resnet32-cifar100": 2.15, "resnet110-cifar100": 7.77, "wrn28-10-cifar100": 164.2}
TRAINING |= {"resnet18-imagenet": 53.5, "resnet50-imagenet": 100.5}
TRAINING |= {"pspnet50-ade20k": 49.18}  # test_pspnet.py adds it up


def runs(path: Path) -> list[training.TrainConfig]:
    config = configs.load(path)
    if isinstance(config, training.TrainConfig):
        return [config]
    return [cell.config for cell in config.expand() if cell.seed == config.seeds[0]]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_opens_with_command_expectation_and_time(path: Path) -> None:
    head = path.read_text("utf-8").partition("name:")[0]
    assert f"recipes/{path.name}" in head
    for word in ("Expected", "Time"):
        assert f"# {word}" in head
    assert all(len(line) <= 130 for line in path.read_text("utf-8").splitlines())


def planned(config: training.TrainConfig) -> ds.Plan:
    """The plan that the run would make, of a model on the meta device where that is enough."""
    classes, channels, size = SHAPES[config.data.name]
    if config.loss is not None and losses.describe(config.loss).one_channel and classes == 2:
        classes = 1
    options = (
        {**config.model_options, "pretrained": False} if "pretrained" in config.model_options else config.model_options
    )
    model = built(config.model, classes, channels, size, json.dumps(options))
    settings = config.supervise
    assert settings is not None
    x = torch.randn(2, channels, size, size)
    given = {"method": settings.method, "epochs": config.epochs, "loss": config.loss}
    return ds.plan(model, x, settings.at, **given)  # type: ignore[arg-type]


@lru_cache(maxsize=1)  # the arms of a recipe mostly share their network, and planning leaves it as it was
def built(spec: str, classes: int, channels: int, size: int, options: str) -> nn.Module:
    return networks.build(spec, classes=classes, in_channels=channels, size=size, options=json.loads(options))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_can_be_planned(path: Path) -> None:
    for config in runs(path):
        for progress in (0.01, 0.5, 0.99):  # a warm-up begins at 0
            assert schedules.parse(config.optimizer.schedule)(progress) > 0
        if config.supervise is None or methods.get(config.supervise.method).name == "equal-compute":
            continue
        method = methods.get(config.supervise.method)
        assert config.data.views >= method.views
        assert config.data.overlap or not method.overlap
        plan = planned(config)
        assert bool(plan.branches) != method.bare
        if path.stem in TRAINING:
            millions = (plan.cost["trunk_params"] + plan.cost["head_params"]) / 1e6
            assert millions == pytest.approx(TRAINING[path.stem], rel=0.005)
