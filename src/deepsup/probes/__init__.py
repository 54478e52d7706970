"""Where do gradients vanish, and where would a branch help? `probe` runs a few iterations and looks at every layer."""

from deepsup.probes.placements import Recommendation
from deepsup.probes.probing import probe, weight_layers
from deepsup.probes.readings import PAPER_THRESHOLD, LayerGradient, Probe

__all__ = ["PAPER_THRESHOLD", "LayerGradient", "Probe", "Recommendation", "probe", "weight_layers"]
