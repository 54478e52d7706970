"""The published methods, each as the defaults that `plan` fills in: branches, losses, weights, terms between outputs.

A method never brings a training loop of its own; whatever it presets for a branch can be overridden in `plan`.
"""

from deepsup.methods.method import Method as Method
from deepsup.methods.method import Preset as Preset
from deepsup.methods.method import Scene as Scene
from deepsup.methods.table import METHODS as METHODS
from deepsup.methods.table import get as get
