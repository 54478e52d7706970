"""Branches that repeat the rest of the trunk or share its end with it, and where published methods put them."""

from deepsup.heads.continuation.own_layers import main
from deepsup.heads.continuation.repeating import continuation
from deepsup.heads.continuation.stages import hierarchical, said_stages, stages

__all__ = ["continuation", "hierarchical", "main", "said_stages", "stages"]
