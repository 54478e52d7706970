"""Losses as pure functions of (prediction, target); each returns a scalar tensor.

A loss is named by a text with its options (`"cross_entropy"`, `"kl(temperature=3)"`), or is any callable of the same
form. Of a loss between two outputs the second argument is the other output, which the caller has detached.

>>> get("squared_hinge(form='one-vs-rest')")
squared_hinge(form='one-vs-rest')
>>> describe("kl(temperature=3)").teacher
True

None of them reads a value back from the device, and all of ours but `cross_entropy` compute in float32 at least. A new
one is a function with `@named.loss(...)` in a file of this room, which is found by being there.
"""

from __future__ import annotations

import sys

from deepsup.losses.class_losses import FORMS, cross_entropy, gated, squared_hinge
from deepsup.losses.contrastive import simclr, supcon
from deepsup.losses.distillation import hint, kl, none
from deepsup.losses.labels import IGNORE, check_labels
from deepsup.losses.named import (
    LOSSES,
    Kind,
    Loss,
    Named,
    check,
    check_channels,
    check_target,
    describe,
    get,
    is_sigmoid,
    option,
    probabilities,
    read,
    show,
    votes,
)
from deepsup.losses.overlap import dice, dice_cross_entropy
from deepsup.losses.sigmoid import balanced, binary
from deepsup.specs import import_all

import_all(sys.modules[__name__], but=("upsampled_triton",))  # which needs Triton, and comes when it is asked for

__all__ = [
    "FORMS",
    "IGNORE",
    "LOSSES",
    "Kind",
    "Loss",
    "Named",
    "balanced",
    "binary",
    "check",
    "check_channels",
    "check_labels",
    "check_target",
    "cross_entropy",
    "describe",
    "dice",
    "dice_cross_entropy",
    "gated",
    "get",
    "hint",
    "is_sigmoid",
    "kl",
    "none",
    "option",
    "probabilities",
    "read",
    "show",
    "simclr",
    "squared_hinge",
    "supcon",
    "votes",
]
