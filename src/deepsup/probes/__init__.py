"""Where do gradients vanish, and where would a branch help? `probe` runs a few iterations and looks at every layer."""

from deepsup.probes.measurements import PAPER_THRESHOLD, LayerGradient, Probe
from deepsup.probes.placement import Recommendation
from deepsup.probes.probe import probe, weight_layers

__all__ = ["PAPER_THRESHOLD", "LayerGradient", "Probe", "Recommendation", "probe", "weight_layers"]
