"""From an activation to class scores: the heads of branches, each registered in `HEADS` where it is written.

Every head maps the activation, batch first, to scores of shape (N, classes), those of module `dense` to
(N, classes, *places), or to a dict that has them under `"scores"` and more beside them, such as the `"feature"` that
they were made from. Those of module `embeddings` give something else than scores.

A new head is one function in one of these files, or in a new one: every file of the room is imported.
"""

import sys

from deepsup.heads.build_head import AUTO as AUTO
from deepsup.heads.build_head import CONTEXT as CONTEXT
from deepsup.heads.build_head import HEADS as HEADS
from deepsup.heads.build_head import Builder as Builder
from deepsup.heads.build_head import HeadLike as HeadLike
from deepsup.heads.build_head import Traits as Traits
from deepsup.heads.build_head import asks as asks
from deepsup.heads.build_head import build as build
from deepsup.heads.build_head import describe as describe
from deepsup.heads.build_head import head as head
from deepsup.heads.build_head import made_once as made_once
from deepsup.heads.build_head import read as read
from deepsup.heads.build_head import resolve as resolve
from deepsup.heads.build_head import show as show
from deepsup.heads.classifiers import bottleneck as bottleneck
from deepsup.heads.classifiers import cnds as cnds
from deepsup.heads.classifiers import googlenet as googlenet
from deepsup.heads.classifiers import linear as linear
from deepsup.heads.classifiers import mixed as mixed
from deepsup.heads.classifiers import network as network
from deepsup.heads.classifiers import pool as pool
from deepsup.heads.classifiers import sepconv as sepconv
from deepsup.heads.classifiers import token as token
from deepsup.heads.continuation import continuation as continuation
from deepsup.heads.continuation import main as main
from deepsup.heads.embeddings import embed as embed
from deepsup.heads.embeddings import gate as gate
from deepsup.heads.embeddings import mean as mean
from deepsup.heads.head_weights import squared_norm as squared_norm
from deepsup.heads.head_weights import zero as zero
from deepsup.heads.identities import neck as neck
from deepsup.heads.identities import stripe as stripe
from deepsup.specs import import_all

import_all(sys.modules[__name__])
