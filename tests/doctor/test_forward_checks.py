"""Traps that one forward on a real batch shows."""

from __future__ import annotations

from typing import Any

import pytest
import torchvision
from torch import Tensor, nn

import deepsup as ds
from tests.support.patients import OneValue, examined, only
from tests.support.small_nets import CLASSES, Plain, Residual, images, labels


def test_one_value_per_channel_is_found_in_the_model() -> None:
    where = "layer 'norm'"
    only(examined(OneValue(), batch_sizes=[8, 1]), "one-value-per-channel", where, "drop_last=True", "GroupNorm")
    only(ds.diagnose(OneValue(), images(1), labels(1)), "one-value-per-channel", where, "another batch size")
    assert not examined(OneValue(), batch_sizes=[8, 2])
    assert not ds.diagnose(Residual(), images(1), labels(1)), "maps of several pixels have a spread"


def test_one_value_per_channel_is_found_in_a_head() -> None:
    def head(feature: ds.Feature, classes: int) -> nn.Module:
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(feature.channels))
        return nn.Sequential(pooled, nn.Linear(feature.channels, classes))

    found = examined(Plain(), at=["relu1"], head=head, batch_sizes=[4, 1])
    only(found, "one-value-per-channel", "head of branch 'relu1', layer '0.2'", "drop_last=True")
    assert not examined(Plain(), at=["relu1"], head=head)


def test_one_value_per_channel_is_found_where_a_batch_of_one_stops_the_forward() -> None:
    class Pair(OneValue):
        def forward(self, x: Tensor, scale: float) -> Tensor:
            return super().forward(x) * scale

    only(ds.diagnose(Pair(), (images(1), 1.0)), "one-value-per-channel", "layer 'norm'", "drop_last=True")


def test_frozen_statistics_need_no_second_value() -> None:
    class Frozen(OneValue):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.norm.eval()
            return self

    assert not examined(Frozen().train(), batch_sizes=[1])


def test_further_predictions_of_the_model_are_found() -> None:
    class Two(Plain):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x), super().forward(x)

    found = examined(Two())
    only(found, "unused-prediction", "model", "return the prediction alone", severity="warning")


@pytest.mark.parametrize(
    ("build", "size", "lines"),
    [
        (torchvision.models.googlenet, 64, "model.aux_logits = False; model.aux1 = None; model.aux2 = None"),
        (torchvision.models.inception_v3, 299, "model.aux_logits = False; model.AuxLogits = None"),
    ],
)
def test_the_fix_of_further_predictions_can_be_run_as_it_is_printed(build: Any, size: int, lines: str) -> None:
    model = build(weights=None, num_classes=CLASSES, init_weights=False)
    found = ds.diagnose(model, images(2, size), labels())
    fix = only(found, "unused-prediction", "model", severity="warning").fix
    assert fix == f"Switch them off before planning and attaching: {lines}"
    exec(lines, {"model": model})
    assert not ds.diagnose(model, images(2, 96), labels())  # without them no size is too small
