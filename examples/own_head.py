"""A head, a branch's loss and a main loss of your own, in deepsup's trainer, which goes on where it was stopped.

    python examples/own_head.py

Time: about 8 seconds on 2 CPU cores. Prints the plan and the formula of the loss, where training goes on, the accuracy of
the main output and of both branches, and that the saved plain weights fit a model that never knew deepsup.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn import functional

import deepsup as ds
from deepsup import datasets, networks


def patches(feature: ds.Feature, classes: int) -> nn.Module:
    """Looks at no more than 4x4 patches; a head is any function of (feature, classes), or a module."""
    side = min(4, *feature.size)
    mix = nn.Conv2d(feature.channels, 32, 1)
    return nn.Sequential(nn.AdaptiveAvgPool2d(side), mix, nn.ReLU(), nn.Flatten(), nn.Linear(32 * side**2, classes))


def one_against_rest(prediction: Tensor, target: Tensor) -> Tensor:
    """A yes or no for each class; a loss is any function of (prediction, target)."""
    wanted = functional.one_hot(target, prediction.shape[1]).float()
    return functional.binary_cross_entropy_with_logits(prediction, wanted, reduction="sum") / len(target)


def smooth(prediction: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(prediction, target, label_smoothing=0.1)


def build() -> nn.Module:
    return networks.build("deepsup:plain-9", classes=data.classes, in_channels=data.channels)


def stop(record: dict[str, object]) -> None:
    if record["kind"] == "epoch" and record["epoch"] == 2:
        raise KeyboardInterrupt


torch.manual_seed(0)
data = datasets.load("digits")
model = build()
plan = ds.plan(
    model,
    torch.randn(2, data.channels, data.size, data.size),
    at={"early": "relu5", "late": "relu7"},
    head=patches,
    branch_loss={"late": one_against_rest},
)
net = ds.attach(model, plan)
objective = ds.Objective(plan, loss=smooth)
print(f"{plan}\n{objective}")

with TemporaryDirectory() as folder:
    settings = {"validation": data.validation, "objective": objective, "optimizer": "adam", "lr": 1e-3, "epochs": 5}
    try:
        ds.fit(net, data.train, folder=folder, on_record=stop, **settings)
    except KeyboardInterrupt:
        print("stopped in epoch 2; the same call goes on from the last checkpoint")
    result = ds.fit(net, data.train, folder=folder, **settings)
    print(f"{result.epochs} epochs, {result.step} steps, accuracy {result.score:.3f}")

    x, y = next(data.validation.batches(len(data.validation), seed=0, epoch=0, shuffle=False))
    net.eval()
    with torch.no_grad(), ds.supervising(net):  # without it a net in eval mode is the plain model
        scores = {"main": net(x).main, **net(x).aux}
    print(", ".join(f"{name} {(scores[name].argmax(1) == y).float().mean():.3f}" for name in scores))

    ds.save_weights(ds.strip(net), Path(folder) / "model.safetensors")
    fresh = build().eval()
    ds.load_weights(fresh, Path(folder) / "model.safetensors")
    with torch.no_grad():
        print(f"the same outputs from the saved weights: {torch.equal(fresh(x), scores['main'])}")
