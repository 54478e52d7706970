"""Pictures with labels, one each or one a pixel: order and augmentation depend on (seed, epoch) and nothing else."""

from __future__ import annotations

from deepsup.datasets.arrays import ArraySplit
from deepsup.datasets.folders import FolderSplit
from deepsup.datasets.loading import load, names
from deepsup.datasets.maps import MapSplit
from deepsup.datasets.occurrences import AbsentClassWarning
from deepsup.datasets.requested import Dataset
from deepsup.datasets.splits import Split

__all__ = ["AbsentClassWarning", "ArraySplit", "Dataset", "FolderSplit", "MapSplit", "Split", "load", "names"]
