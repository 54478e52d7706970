"""Losses by import path: the same numbers as by hand, stored in plans, and from files only on somebody's word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.losses import DiceLoss

import deepsup as ds
from deepsup import losses
from deepsup.errors import ConfigError, HeadError, TrustError
from deepsup.settings.foreign import asks
from tests.support.tiny_maps import TinySegmenter, maps

DICE = "imported(path='monai.losses:DiceLoss', options={'to_onehot_y': True, 'softmax': True}, resize='interpolate')"


def test_a_class_with_options_and_a_function_are_losses() -> None:
    scores, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 1, 4, 4))
    assert torch.equal(losses.get(DICE)(scores, labels), DiceLoss(to_onehot_y=True, softmax=True)(scores, labels))
    smooth = losses.get("imported(path='torch.nn.functional:cross_entropy', options={'label_smoothing': 0.1})")
    expected = torch.nn.functional.cross_entropy(scores, labels[:, 0], label_smoothing=0.1)
    assert torch.equal(smooth(scores, labels[:, 0]), expected)


def test_a_plan_with_one_is_stored_and_read_back_on_somebodys_word(tmp_path: Path) -> None:
    x, y = maps(2)
    plan = ds.plan(model := TinySegmenter(), x, at=["layer2"], head="conv1x1", loss=DICE, task="segmentation")
    plan.save(tmp_path / "plan.json")
    with pytest.raises(TrustError, match=r"import the module monai\.losses and call monai\.losses:DiceLoss as a loss"):
        ds.Plan.load(tmp_path / "plan.json")
    assert ds.Plan.load(tmp_path / "plan.json", trust=True) == plan
    net = ds.attach(model, plan)
    terms = ds.Objective(plan)(net(x), y.clamp(min=0)[:, None])
    assert bool(terms.total.isfinite())


def test_settings_ask_for_it_as_well() -> None:
    run = {"model": "deepsup:plain-4", "model_options": {}, "loss": DICE, "supervise": {"loss": {"a": DICE}}}
    assert [one.name for one in asks(run)] == ["monai.losses:DiceLoss"] * 2
    assert asks(run | {"loss": "cross_entropy", "supervise": None}) == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("monai.losses:DiceLos", "there is no loss monai.losses:DiceLos"),
        ("no_such_package:loss", "there is no loss no_such_package:loss"),
        ("os:system", "a part of Python itself"),
        ("torch:pi", "torch:pi is a float"),
    ],
)
def test_what_cannot_be_a_loss_is_refused(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        losses.get(f"imported(path='{path}')")(torch.zeros(2, 3), torch.zeros(2))


def test_a_path_is_a_path_and_a_loss_a_tensor() -> None:
    for text in ("imported(path='os.system(1)')", "imported(path='monai')", "imported(options=3)"):
        with pytest.raises(ConfigError, match="loss 'imported' needs"):
            losses.get(text)
    with pytest.raises(HeadError, match="loss torch:result_type returned dtype"):
        losses.get("imported(path='torch:result_type')")(torch.zeros(2, 3), torch.zeros(2))
