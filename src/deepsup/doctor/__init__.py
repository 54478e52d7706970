"""The traps that would stop a training or make it wrong, found before it starts: `diagnose`."""

from .diagnosing import diagnose
from .findings import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
