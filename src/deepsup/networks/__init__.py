"""Networks by name: our own, timm's, torchvision's, or any factory that can be imported."""

from __future__ import annotations

import sys

from deepsup.networks.build import build, names, reads, sample, tokens
from deepsup.networks.cndsnets import cnds_net
from deepsup.networks.decoders import c1, ppm
from deepsup.networks.densenets import densenet
from deepsup.networks.gridding import GriddingWarning, gridding, gridding_of
from deepsup.networks.hed import hed
from deepsup.networks.mobilenets import mobilenet_v1, mobilenet_v2
from deepsup.networks.nested import unetpp
from deepsup.networks.nin import nin
from deepsup.networks.osnets import osnet
from deepsup.networks.plain import plain
from deepsup.networks.pspnets import pspnet
from deepsup.networks.reid import reid, slim_resnet
from deepsup.networks.resnets import resnet, resnet_3x3
from deepsup.networks.transformers import transformer
from deepsup.networks.unets import unet
from deepsup.networks.wideresnets import wrn
from deepsup.specs import import_all

import_all(sys.modules[__name__])  # so that every network is registered

__all__ = [
    "GriddingWarning",
    "build",
    "c1",
    "cnds_net",
    "densenet",
    "gridding",
    "gridding_of",
    "hed",
    "mobilenet_v1",
    "mobilenet_v2",
    "names",
    "nin",
    "osnet",
    "plain",
    "ppm",
    "pspnet",
    "reads",
    "reid",
    "resnet",
    "resnet_3x3",
    "sample",
    "slim_resnet",
    "tokens",
    "transformer",
    "unet",
    "unetpp",
    "wrn",
]
