"""Losses of other libraries on maps of another size."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import losses
from deepsup.errors import ConfigError, HeadError
from tests.support.tiny_maps import TinySegmenter, maps


def test_monais_dice_supervises_a_branch_at_half_the_size() -> None:
    x, y = maps(2)
    y = y.clamp(min=0)  # which MONAI does not ignore
    dice = DiceLoss(to_onehot_y=True, softmax=True)
    loss = losses.resized(dice, kinds=("class",))
    plan = ds.plan(model := TinySegmenter(), x, at=["layer2"], head="conv1x1", loss=loss)
    net = ds.attach(model, plan)
    outputs = net(x)
    terms = ds.Objective(plan)(outputs, y[:, None])
    small = outputs.aux["layer2"]
    wide = F.interpolate(small, y.shape[1:], mode="bilinear", align_corners=False)
    assert small.shape[2:] != y.shape[1:]
    assert torch.allclose(terms.parts["layer2"], dice(wide, y[:, None]))
    assert plan.prediction is not None
    assert plan.prediction.kind == "class"


@pytest.mark.parametrize("form", ["labels", "labels-1", "values"])
def test_the_target_is_shrunk_and_keeps_its_form(form: str) -> None:
    seen = []
    target = {
        "labels": torch.arange(16).view(1, 4, 4) % 3,
        "labels-1": torch.arange(16).view(1, 1, 4, 4).byte() % 3,
        "values": torch.arange(16.0).view(1, 1, 4, 4),
    }[form]
    loss = losses.resized(lambda s, t: seen.append(t) or s.sum(), "nearest")
    loss(torch.zeros(1, 3, 2, 2), target)
    (small,) = seen
    assert small.shape == (*target.shape[:-2], 2, 2)
    assert small.dtype == target.dtype
    assert torch.equal(small, target[..., 1::2, 1::2])


def test_what_pytorchs_losses_read_stays_known() -> None:
    assert losses.describe(losses.resized(nn.MSELoss(), "area")).kinds == ("values",)
    assert losses.reads_first_axis(losses.resized(lambda s, t: s.sum()))


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match="resize='bilinear' is no way to bring two sizes together"):
        losses.resized(F.mse_loss, "bilinear")
    with pytest.raises(HeadError, match="a resized loss holds maps"):
        losses.resized(F.mse_loss)(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(HeadError, match="resize='area' makes shares of labels"):
        losses.resized(F.cross_entropy, "area")(torch.zeros(1, 3, 2, 2), torch.zeros(1, 4, 4, dtype=torch.long))
