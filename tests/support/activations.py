"""Activations of every layout, for heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepsup.features import Feature

FEATURES = {
    "NC": Feature((6,), "NC"),
    "NCL": Feature((6, 10), "NCL"),
    "NLC": Feature((10, 6), "NLC"),
    "NCHW": Feature((6, 7, 9), "NCHW"),
    "NHWC": Feature((7, 9, 6), "NHWC"),
    "NCDHW": Feature((6, 2, 3, 4), "NCDHW"),
}


def activation(feature: Feature, batch: int = 3) -> Tensor:
    return torch.randn(batch, *feature.shape)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
