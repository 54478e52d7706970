"""Networks by name: our own, timm's, torchvision's, or any factory that can be imported."""

from __future__ import annotations

from deepsup.networks.plain import plain
from deepsup.networks.sources import build, names

__all__ = ["build", "names", "plain"]
