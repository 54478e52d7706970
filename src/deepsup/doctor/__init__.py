"""The traps that would stop a training or make it wrong, found before it starts: `diagnose`."""

from deepsup.doctor.diagnosing import diagnose
from deepsup.doctor.findings import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
