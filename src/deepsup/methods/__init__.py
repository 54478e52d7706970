"""The published methods, each as the defaults that `plan` fills in: branches, losses, weights, terms between outputs.

A method never brings a training loop of its own; whatever it presets for a branch can be overridden in `plan`.
"""

from .presets import Method as Method
from .presets import Preset as Preset
from .presets import Scene as Scene
from .table import METHODS as METHODS
from .table import get as get
