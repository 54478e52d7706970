"""Branches that repeat the rest of the trunk, and where published methods put them."""

from deepsup.continuations.building import continuation
from deepsup.continuations.hierarchies import hierarchical, stages

__all__ = ["continuation", "hierarchical", "stages"]
