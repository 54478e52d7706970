"""The published methods, each as the defaults that `plan` fills in: branches, losses, weights, terms between outputs.

A method never brings a training loop of its own; whatever it presets for a branch can be overridden in `plan`. A new one is
one function, registered in `BUILDERS` where it is written: every file of this room is imported.
"""

import sys

from deepsup.methods.method import BUILDERS as BUILDERS
from deepsup.methods.method import METHODS as METHODS
from deepsup.methods.method import Biases as Biases
from deepsup.methods.method import Method as Method
from deepsup.methods.method import Places as Places
from deepsup.methods.method import Preset as Preset
from deepsup.methods.method import Scene as Scene
from deepsup.methods.method import get as get
from deepsup.specs import import_all

import_all(sys.modules[__name__])
METHODS.update({name: get(name) for name in BUILDERS})
