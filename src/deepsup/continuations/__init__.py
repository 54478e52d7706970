"""Branches that repeat the rest of the trunk, and where published methods put them."""

from .building import continuation
from .hierarchies import hierarchical, stages

__all__ = ["continuation", "hierarchical", "stages"]
