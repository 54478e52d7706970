"""How the networks of this folder begin."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def he_normal(network: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / fan_out), He et al. 2015 (arXiv 1502.01852), equation 14; biases are 0.

    fan_out counts kernel positions times output channels. Normalisations keep scale 1 and shift 0, linear layers keep
    what PyTorch draws, as in the released training code of ResNet, WRN, DenseNet and DHM for CIFAR.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def gaussian(network: nn.Module, *, std: float) -> None:
    """Draw the weights of every convolution and linear layer from N(0, std²); biases are 0. Caffe's "gaussian" filler."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
