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

from deepsup.losses.class_losses import FORMS as FORMS
from deepsup.losses.class_losses import cross_entropy as cross_entropy
from deepsup.losses.class_losses import gated as gated
from deepsup.losses.class_losses import squared_hinge as squared_hinge
from deepsup.losses.contrastive import simclr as simclr
from deepsup.losses.contrastive import supcon as supcon
from deepsup.losses.counting import counted as counted
from deepsup.losses.counting import counts_nothing as counts_nothing
from deepsup.losses.distillation import hint as hint
from deepsup.losses.distillation import kl as kl
from deepsup.losses.distillation import none as none
from deepsup.losses.first_batch import check_axis as check_axis
from deepsup.losses.first_batch import check_finite as check_finite
from deepsup.losses.first_batch import check_places as check_places
from deepsup.losses.first_batch import check_target as check_target
from deepsup.losses.first_batch import guessed_axis as guessed_axis
from deepsup.losses.import_paths import imported as imported
from deepsup.losses.labels import IGNORE as IGNORE
from deepsup.losses.labels import check_labels as check_labels
from deepsup.losses.metric import circle as circle
from deepsup.losses.metric import triplet as triplet
from deepsup.losses.named import LOSSES as LOSSES
from deepsup.losses.named import Kind as Kind
from deepsup.losses.named import Loss as Loss
from deepsup.losses.named import Named as Named
from deepsup.losses.named import asks as asks
from deepsup.losses.named import check as check
from deepsup.losses.named import check_channels as check_channels
from deepsup.losses.named import check_kind as check_kind
from deepsup.losses.named import describe as describe
from deepsup.losses.named import get as get
from deepsup.losses.named import is_given_first_axis as is_given_first_axis
from deepsup.losses.named import is_ours as is_ours
from deepsup.losses.named import option as option
from deepsup.losses.named import probabilities as probabilities
from deepsup.losses.named import read as read
from deepsup.losses.named import reads_first_axis as reads_first_axis
from deepsup.losses.named import show as show
from deepsup.losses.named import votes as votes
from deepsup.losses.overlap import dice as dice
from deepsup.losses.overlap import dice_cross_entropy as dice_cross_entropy
from deepsup.losses.resized import resized as resized
from deepsup.losses.sigmoid import balanced as balanced
from deepsup.losses.sigmoid import binary as binary
from deepsup.losses.values import cosine as cosine
from deepsup.losses.values import huber as huber
from deepsup.losses.values import l1 as l1
from deepsup.losses.values import mse as mse
from deepsup.losses.values import smooth_l1 as smooth_l1
from deepsup.specs import import_all

import_all(sys.modules[__name__], but=("upsampled_triton",))  # which needs Triton, and comes when it is asked for
