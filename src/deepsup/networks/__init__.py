"""Networks by name: our own, timm's, torchvision's, or any factory that can be imported."""

from __future__ import annotations

from deepsup.networks.cndsnets import cnds_net
from deepsup.networks.densenets import densenet
from deepsup.networks.mobilenets import mobilenet_v1, mobilenet_v2
from deepsup.networks.nin import nin
from deepsup.networks.plain import plain
from deepsup.networks.resnets import resnet
from deepsup.networks.sources import build, names
from deepsup.networks.stems import resnet_3x3
from deepsup.networks.wideresnets import wrn

__all__ = [
    "build",
    "cnds_net",
    "densenet",
    "mobilenet_v1",
    "mobilenet_v2",
    "names",
    "nin",
    "plain",
    "resnet",
    "resnet_3x3",
    "wrn",
]
