"""What tests of settings share."""

from __future__ import annotations

ARMS = {"plain": {"supervise": None}, "aux": {"supervise": {"at": ["relu1"]}}}


METHODS = ["none", "aux", "cnds", "label-smoothing"]
