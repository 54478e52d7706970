"""Pictures with labels, served in batches whose order and augmentation depend on (seed, epoch) and nothing else."""

from __future__ import annotations

from deepsup.datasets.arrays import ArraySplit
from deepsup.datasets.classification import Dataset, load, names
from deepsup.datasets.folders import FolderSplit
from deepsup.datasets.splits import Split

__all__ = ["ArraySplit", "Dataset", "FolderSplit", "Split", "load", "names"]
