"""Pictures with labels, one each or one a pixel: order and augmentation depend on (seed, epoch) and nothing else."""

from __future__ import annotations

from deepsup.datasets.array_split import ArraySplit
from deepsup.datasets.class_occurrence import AbsentClassWarning
from deepsup.datasets.folder_split import FolderSplit
from deepsup.datasets.identity_split import IdentitySplit
from deepsup.datasets.label_map_split import MapSplit
from deepsup.datasets.loading import load, names
from deepsup.datasets.mask_classes import DoubtfulClassesWarning
from deepsup.datasets.request import Dataset
from deepsup.datasets.splits import Split

__all__ = [
    "AbsentClassWarning",
    "ArraySplit",
    "Dataset",
    "DoubtfulClassesWarning",
    "FolderSplit",
    "IdentitySplit",
    "MapSplit",
    "Split",
    "load",
    "names",
]
