"""The traps that would stop a training or make it wrong, found before it starts: `diagnose`."""

from deepsup.doctor.diagnose import diagnose
from deepsup.doctor.findings import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
