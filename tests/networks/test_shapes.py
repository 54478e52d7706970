"""What every layer reads and gives out, found without computing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks.shapes import run_on_meta, stride_of
from tests.support.small_nets import Plain


def test_every_call_is_seen_in_the_order_of_its_end_and_the_model_is_left_alone() -> None:
    model = Plain().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calls, output = run_on_meta(model, (1, 3, 16, 16), what="a model")
    assert [name for name, _ in calls] == ["conv1", "relu1", "conv2", "relu2", "pool", "fc"]
    seen = dict(calls)
    assert (seen["conv2"].read, seen["conv2"].gave) == ((1, 8, 16, 16), (1, 16, 8, 8))
    assert seen["relu1"].read_id == seen["conv1"].gave_id != seen["relu1"].gave_id
    assert output.shape == (1, 5)
    assert output.device.type == "meta"
    assert model.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_an_input_that_does_not_fit_is_told_by_the_name_of_the_model() -> None:
    with pytest.raises(ConfigError, match=r"a model cannot run on an input of shape \(1, 2, 8, 8\): RuntimeError"):
        run_on_meta(nn.Conv2d(3, 4, 1), (1, 2, 8, 8), what="a model")


@pytest.mark.parametrize(("height", "stride"), [(64, 1), (32, 2), (33, 2), (15, 4), (70, 1)])
def test_a_stride_is_a_power_of_two(height: int, stride: int) -> None:
    assert stride_of((1, 3, height, height), 64) == stride
