"""Branches that repeat the rest of the trunk, and where published methods put them."""

from deepsup.heads.continuation.repeating import continuation
from deepsup.heads.continuation.stages import hierarchical, stages

__all__ = ["continuation", "hierarchical", "stages"]
