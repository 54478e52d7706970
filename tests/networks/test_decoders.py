"""CSAIL's decoders, layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.dense_nets import ADE20K, DEEP18, TINY, built, on_meta

torch.set_num_threads(1)


def test_csails_decoders_layer_by_layer() -> None:
    assert {name: tuple(p.shape) for name, p in on_meta("c1").get_submodule("decoder").named_parameters()} == {
        "cbr.0.weight": (512, 2048, 3, 3),
        "cbr.1.weight": (512,),
        "cbr.1.bias": (512,),
        "conv_last.weight": (ADE20K, 512, 1, 1),
        "conv_last.bias": (ADE20K,),
    }
    expected: dict[str, tuple[int, ...]] = {}
    for i in range(4):
        expected |= {f"ppm.{i}.1.weight": (512, 512, 1, 1), f"ppm.{i}.2.weight": (512,), f"ppm.{i}.2.bias": (512,)}
    expected |= {
        "conv_last.0.weight": (512, 512 + 4 * 512, 3, 3),
        "conv_last.1.weight": (512,),
        "conv_last.1.bias": (512,),
    }
    expected |= {"conv_last.4.weight": (ADE20K, 512, 1, 1), "conv_last.4.bias": (ADE20K,)}
    found = on_meta("ppm", **DEEP18).get_submodule("decoder").named_parameters()
    assert {name: tuple(p.shape) for name, p in found} == expected


def test_csails_initial_weights() -> None:
    model = built("ppm", **TINY, classes=40)
    for layer in model.get_submodule("decoder").modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.in_channels * layer.kernel_size[0] ** 2
            assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)
        if isinstance(layer, nn.BatchNorm2d):
            assert torch.equal(layer.bias, torch.full_like(layer.bias, 1e-4))
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
